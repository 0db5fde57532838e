"""Plans of pretraining: what was measured or published comes out again."""

from dataclasses import replace

import pytest
import torch

from dino_train import recipes
from dino_train.cli import main
from dino_train.config import ModelConfig
from dino_train.distributed import Process
from dino_train.planning.plan import image_flop, parameter_count, training_plan
from dino_train.run import build_learner
from tests.infer.features.test_plan import figures

PUBLISHED = recipes.imagenet_vits16()


def test_a_plan_says_what_was_measured_and_published():
    vit_tiny = replace(PUBLISHED, model=ModelConfig(arch="vit_tiny"))
    measured = figures(training_plan(1000, vit_tiny, machine="cpu"))
    assert measured["speed of a machine"] == pytest.approx(
        8 / 1.256, rel=0.01
    )  # train_step_2026-11
    assert figures(training_plan(1000, PUBLISHED, machine="v100"))["the step"] == 106
    assert figures(training_plan(1000, PUBLISHED, machine="rtx4090"))["the step"] == 305


def test_the_published_run_takes_its_published_time():
    plan = training_plan(1_281_167, PUBLISHED, machine="v100", machines=8)
    assert figures(plan)["time"] == pytest.approx(1.75 * 24, rel=0.05)  # the authors' README
    assert figures(plan)["steps"] == 250_200


def test_parameters_are_those_of_the_network():
    config = recipes.tiny_cpu()
    student = build_learner(
        config, Process(rank=0, world_size=1, device=torch.device("cpu"))
    ).student
    assert parameter_count(config) == pytest.approx(
        sum(each.numel() for each in student.parameters()), rel=0.01
    )


def test_without_a_teachers_pass_a_step_is_cheaper_by_its_global_crops():
    base = recipes.auto(num_images=1000, loss="coding-rate")
    with_teacher, without = (
        replace(base, loss=replace(base.loss, targets=targets))
        for targets in ("teacher", "student")
    )
    globals_alone = replace(without, crops=replace(base.crops, local_crops_number=0))
    saved = image_flop(with_teacher) - image_flop(without)
    assert saved == pytest.approx(image_flop(globals_alone) / 3)


def test_any_setting_of_the_run_changes_its_plan(capsys):
    assert main("tiny_cpu --plan --images 5000 --optim.epochs 24 --machine cpu".split()) == 0
    assert "5,000 images, 24 epochs" in capsys.readouterr().out
    assert main("--plan --images 5000 --optim.epochs 0".split()) == 2
    assert "optim.epochs must lie in" in capsys.readouterr().err
