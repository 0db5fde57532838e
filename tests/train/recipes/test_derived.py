"""What the command line says and what auto derives: a flag counts as given whatever its value."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from dino_infer.networks.build import build_backbone
from dino_infer.sources.image_list import list_images
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from dino_train import recipes, train
from dino_train.cli import SHOWN_BY_HELP, main
from dino_train.config import LossConfig
from dino_train.given import read_given
from dino_train.recipes import what_outlasts


@pytest.fixture
def said_by_auto(image_folder, tmp_path: Path, capsys):
    """Run ``dino-train auto`` up to where it has chosen its settings, and return what it says."""
    data = image_folder(count=12)

    def run(*flags: str) -> str:
        stop = ["--device", "cuda:99"]  # is refused right after
        command = ["auto", "--data", str(data), "--out", str(tmp_path / "run"), *stop]
        assert main([*command, *flags]) == 1
        errors = capsys.readouterr().err
        assert "cuda:99" in errors
        return errors

    return run


@pytest.mark.parametrize("batch_size", [255, SHOWN_BY_HELP.optim.batch_size, 257])
def test_a_batch_size_counts_as_given_also_where_help_shows_it_as_the_default(
    said_by_auto, batch_size: int
):
    expected = recipes.auto(num_images=12, image_side=40, batch_size=batch_size).optim
    said = said_by_auto("--optim.batch-size", str(batch_size))
    assert float(re.search(r"lr ([\d.e-]+) for", said)[1]) == expected.lr
    assert f"steps of {batch_size} images" in said


@pytest.mark.parametrize("written", ["--optim.epochs=800", "--optim.epochs 800"])
def test_epochs_count_as_given_also_where_help_shows_them_as_the_default(written: str):
    assert SHOWN_BY_HELP.optim.epochs == 800
    others = ["--data", "photos", "more", "--out", "run", "--optim.lr", "0.1"]
    assert read_given([*others, *written.split()]).optim.epochs == 800
    assert read_given(others).optim.epochs is None


@pytest.mark.parametrize("name", ["batch_size", "epochs"])
def test_zero_is_refused_and_does_not_mean_not_given(name: str):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        recipes.auto(num_images=5000, **{name: 0})


def test_flags_are_not_judged_by_settings_that_stand_in_until_the_data_is_seen(said_by_auto):
    assert "crops 2 x 40 px" in said_by_auto("--crops.local-crops-size", "5")  # patches are 5 px


def test_weights_bring_their_stem_and_their_kind_of_network(said_by_auto, tmp_path: Path):
    resnet = build_backbone("resnet18", small_stem=True)
    info = CheckpointInfo(arch="resnet18", patch_size=resnet.patch_size, small_stem=True)
    save_checkpoint(tmp_path / "w.safetensors", resnet, info)
    said = said_by_auto("--init-from", str(tmp_path / "w.safetensors"), "--optim.epochs", "1")
    assert "epochs 1:" in said and "after 0.25 epochs" in said


def test_a_list_of_images_gives_the_settings_of_the_command(image_folder, tmp_path: Path):
    data, run = image_folder(count=12), tmp_path / "run"
    images = list_images([data])
    config = recipes.auto_for(images, epochs=1, device="cpu")
    assert config == recipes.auto(num_images=12, image_side=40, epochs=1, on_cpu=True)
    train(config, data=[data], out=run, images=images, tensorboard=False)
    # The same run to the command: it has nothing left to do.
    flags = ["--optim.epochs", "1", "--device", "cpu", "--no-tensorboard"]
    assert main(["--data", str(data), "--out", str(run), *flags]) == 0
    continued = recipes.auto_for(images, epochs=2, init_from=run)
    assert continued.model.arch == config.model.arch and continued.model.small_stem
    assert continued.optim.lr < config.optim.lr


AUTO_SIDES = {"vit_small": 256, "resnet18": 32}


@pytest.mark.parametrize("arch", AUTO_SIDES)
@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 9, 50, 400])
@pytest.mark.parametrize("num_images", [500, 2_000, 300_000])
def test_the_schedules_of_auto_fit_the_run_from_nothing_and_from_weights(
    arch: str, epochs: int, num_images: int
):
    fresh = recipes.auto(
        num_images=num_images, image_side=AUTO_SIDES[arch], arch=arch, epochs=epochs
    )
    weights = {"arch": arch, "patch_size": 16, "image_size": 224}
    continued = recipes.continued(fresh, num_images=num_images, epochs=epochs, **weights)
    for config in (fresh, continued):
        o, t = config.optim, config.teacher
        assert o.epochs == epochs and o.warmup_epochs <= max(epochs / 4, 0.25)
        assert max(o.freeze_last_layer_epochs, o.freeze_backbone_epochs) <= epochs / 4
        assert t.warmup_teacher_temp_epochs <= epochs / 2
        steps = num_images // o.batch_size * epochs
        assert 1 / (1 - t.momentum) <= max(34, steps / 19)  # momentum has four digits


def test_a_shortened_continuation_shortens_every_schedule():
    fresh = recipes.auto(num_images=20_000, epochs=100)
    config = recipes.continued(
        fresh, num_images=20_000, arch="vit_small", patch_size=16, image_size=224
    )
    assert config.optim.epochs == 25
    assert fresh.teacher.warmup_teacher_temp_epochs == 20
    assert config.teacher.warmup_teacher_temp_epochs == 5


@pytest.mark.parametrize(
    ("momentum", "said"),
    [
        (0.97, "averages about 33 steps, which is short beside the 279 of the run"),
        (0.9995, "averages about 2,000 steps, which is long beside the 279 of the run"),
        (1.0, "the teacher never moves"),
    ],
)
def test_the_reason_given_for_the_momentum_is_true(momentum: float, said: str):
    config = recipes.auto(num_images=2_000, image_side=32, epochs=9)
    config = dataclasses.replace(
        config, teacher=dataclasses.replace(config.teacher, momentum=momentum)
    )
    assert any(said in line for line in recipes.explain_auto(config, num_images=2_000))


@pytest.mark.parametrize(("image_side", "small"), [(63, True), (64, False), (65, False)])
def test_the_small_stem_is_for_images_below_64_px_as_its_help_says(image_side: int, small: bool):
    config = recipes.auto(num_images=2_000, image_side=image_side, arch="resnet18")
    assert config.model.small_stem is small


@pytest.mark.parametrize(
    ("arch", "small"),
    [("resnet18", True), ("resnet_micro", True), ("wide_resnet50_2", True), ("resnetv2_18", False),
     ("resnet50_clip", False), ("resnetaa50", False), ("regnety_002", False)],
)  # fmt: skip
def test_the_stem_that_auto_derives_fits_the_network(arch: str, small: bool):
    model = recipes.auto(num_images=2_000, image_side=32, arch=arch).model
    assert model.small_stem is small
    with torch.device("meta"):
        network = build_backbone(arch, image_size=32, small_stem=model.small_stem)
    assert network.small_stem is small


def test_what_outlasts_the_run_is_said_with_the_setting_that_does():
    config = recipes.imagenet_vits16_800()
    assert what_outlasts(config, total_steps=1_000_000) == []
    optim = dataclasses.replace(
        config.optim,
        epochs=3,
        warmup_epochs=1,
        freeze_last_layer_epochs=3,
        freeze_backbone_epochs=4,
    )
    said = " ".join(what_outlasts(dataclasses.replace(config, optim=optim), total_steps=249))
    for setting in (
        "optim.freeze_last_layer_epochs=3",
        "optim.freeze_backbone_epochs=4",
        "teacher.warmup_teacher_temp_epochs=30",
        "teacher.momentum=0.996",
    ):
        assert setting in said
    optim = dataclasses.replace(config.optim, epochs=31)
    assert what_outlasts(dataclasses.replace(config, optim=optim), total_steps=251) == []


@pytest.mark.parametrize("num_images", [47, 500, 9_469, 50_000, 300_000])
@pytest.mark.parametrize("image_side", [32, 128, 500])
def test_what_auto_derives_for_a_cpu_ends_within_hours(num_images: int, image_side: int):
    config = recipes.auto(num_images=num_images, image_side=image_side, on_cpu=True)
    assert config.model.arch == "resnet_micro"
    crops, o = config.crops, config.optim
    assert crops.global_crops_size == min(image_side, 64) and crops.local_crops_number == 0
    pixels = 2 * crops.global_crops_size**2 * max(num_images * o.epochs, 1)
    # benchmarks/reports/small_data_2026-11.md: 113,000 images with 2 crops of 64 px in ten minutes.
    assert pixels / (113_000 / 600 * 2 * 64**2) < 3600
    pauses = o.epochs / config.run.eval_epochs
    assert pauses <= max(1, num_images // o.batch_size * o.epochs / 200)


def test_a_gpu_gets_what_it_got_before_and_a_network_that_is_given_stays():
    assert recipes.auto(num_images=5_000).model.arch == "vit_small"
    given = recipes.auto(num_images=5_000, arch="vit_micro", on_cpu=True)
    assert (given.model.arch, given.model.patch_size) == ("vit_micro", 8)


def test_few_images_on_a_cpu_are_learnt_by_the_coding_rate():
    few = recipes.auto(num_images=9_469, image_side=128, on_cpu=True)
    assert (few.loss.kind, few.loss.targets) == ("coding-rate", "student")
    dino = recipes.auto(num_images=9_469, image_side=128, on_cpu=True, loss="dino")
    assert dino.loss == LossConfig() and dino.optim.lr < few.optim.lr
    for elsewhere in (
        recipes.auto(num_images=300_000, on_cpu=True),
        recipes.auto(num_images=9_469),
        recipes.small(),
    ):
        assert elsewhere.loss == LossConfig()


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ([], "coding-rate"),
        (["--loss.kind", "dino"], "dino"),
        (["--teacher.teacher-temp", "0.05"], "dino"),
        (["--head.no-norm-last-layer"], "dino"),
        (["--loss.alignment-weight", "2"], "coding-rate"),
        (["--loss.targets", "teacher"], "coding-rate"),
    ],
)
def test_flags_of_one_loss_choose_it(
    image_folder, tmp_path: Path, capsys, flags: list[str], kind: str
):
    out, data = tmp_path / "run", image_folder(count=12)
    command = ["--data", str(data), "--out", str(out), "--device", "cpu", *flags]
    assert main([*command, "--wandb", "no project"]) == 1  # is refused right after
    said = capsys.readouterr().err
    assert ("loss coding-rate" in said) == (kind == "coding-rate")
    assert ("teacher temperature" in said) == ("out_dim" in said) == (kind == "dino")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--device", "cpu"], ["network resnet_micro", "crops 2 x 40 px + 0 local"]),
        (["--device", "cpu", "--model.arch", "vit_micro"], ["network vit_micro, patches of 5 px"]),
        (["--device", "cuda:99"], ["network vit_small, patches of 5 px"]),
    ],
)
def test_auto_names_the_network_the_patches_and_the_crops(
    image_folder, tmp_path: Path, capsys, flags: list[str], said: list[str]
):
    command = ["--data", str(image_folder(count=12)), "--out", str(tmp_path / "run"), *flags]
    assert main([*command, "--wandb", "no project"]) == 1  # is refused right after
    errors = capsys.readouterr().err
    assert all(words in errors for words in said), errors
