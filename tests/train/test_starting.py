"""What a run takes over from the weights that it starts from."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

from dino_infer.sources.image_list import list_images
from dino_train import distributed, recipes
from dino_train.run import Run

OUT_DIM = 64


@pytest.fixture
def new_run(image_folder, tmp_path: Path):
    """A function that makes a run of few prototypes, which has not begun."""
    images = list_images([image_folder()])
    config = recipes.tiny_cpu()

    def make(name: str, *, out_dim: int = OUT_DIM) -> Run:
        small = dataclasses.replace(
            config,
            head=dataclasses.replace(config.head, out_dim=out_dim),
            optim=dataclasses.replace(config.optim, batch_size=4),
        )
        (tmp_path / name).mkdir()
        return Run(small, images, tmp_path / name, process, data_fingerprint="same")

    process = distributed.start("cpu")
    yield make
    distributed.stop()


@pytest.fixture
def trained(new_run):
    """A run that has been saved twice, with another centre each time."""
    run = new_run("first")
    for step in (1, 2):
        run.step = step
        run.learner.center.center.copy_(step * torch.linspace(-1, 1, OUT_DIM))
        run.save()
    return run


def published(run: Run, path: Path, **more: object) -> Path:
    """The training state of a run as the original's code writes it."""
    state = run.learner.state()
    student = {f"module.{name}": value for name, value in state["student"].items()}
    torch.save({"student": student, "teacher": state["teacher"], "epoch": 3, **more}, path)
    return path


@pytest.mark.parametrize("kind", ["run folder", "snapshot", "the original's"])
def test_the_centre_comes_with_the_head(new_run, trained, tmp_path: Path, caplog, kind: str):
    center = trained.learner.center.center
    weights = {
        "run folder": lambda: trained.out,
        "snapshot": lambda: sorted((trained.out / "snapshots").iterdir())[-1],
        "the original's": lambda: published(
            trained, tmp_path / "checkpoint.pth", dino_loss={"center": center[None]}
        ),
    }[kind]()
    run = new_run("next")
    with caplog.at_level(logging.INFO, "dino_train"):
        run.start_from(weights)
    assert torch.equal(run.learner.center.center, center)
    for network in (run.learner.student, run.learner.teacher):
        for name, value in trained.learner.teacher.head.state_dict().items():
            assert torch.equal(network.head.state_dict()[name], value), name
    assert "with its head and centre" in caplog.text


def test_a_head_without_a_centre_is_said(new_run, trained, tmp_path: Path, caplog):
    run = new_run("next")
    with caplog.at_level(logging.INFO, "dino_train"):
        run.start_from(published(trained, tmp_path / "checkpoint.pth"))
    assert not run.learner.center.center.any()
    assert "with its head, but without a centre, which starts at 0" in caplog.text


def test_neither_head_nor_centre_of_another_number_of_prototypes_is_taken(new_run, trained, caplog):
    run = new_run("next", out_dim=32)
    with caplog.at_level(logging.INFO, "dino_train"):
        run.start_from(trained.out)
    assert not run.learner.center.center.any()
    assert "with a new head" in caplog.text


def test_a_damaged_snapshot_is_passed_over_for_the_one_before(new_run, trained, caplog):
    newest = sorted((trained.out / "snapshots").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    run = new_run("next")
    run.start_from(trained.out)
    assert torch.equal(run.learner.center.center, torch.linspace(-1, 1, OUT_DIM))
    assert f"passed over: {str(newest)!r}" in caplog.text
