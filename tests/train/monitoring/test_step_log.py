import logging
from pathlib import Path

import pytest
import torch

from dino_infer.sources.image_list import list_images
from dino_train.config import from_dict
from dino_train.distributed import Process
from dino_train.learner import StepOutcome
from dino_train.monitoring.step_log import StepLog
from dino_train.records.metrics import MetricsLog, read_rows
from dino_train.records.progress import Progress
from dino_train.run import Run

CPU = Process(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture
def run(image_folder, tmp_path: Path) -> Run:
    """A run of twelve steps, with a row every three."""
    config = from_dict(
        {
            "recipe": "tiny_cpu",
            "model": {"arch": "vit_micro", "patch_size": 8},
            "head": {"out_dim": 16, "hidden_dim": 8, "bottleneck_dim": 4},
            "crops": {"global_crops_size": 32, "local_crops_size": 16},
            "optim": {"batch_size": 4, "epochs": 4, "warmup_epochs": 1},
            "run": {"log_every": 3},
        }
    )
    folder = tmp_path / "run"
    folder.mkdir()
    return Run(config, list_images([image_folder()]), folder, CPU, data_fingerprint="")


def steps(run: Run, log: StepLog, count: int, *, applied: bool = True) -> None:
    """Pretend that steps were taken, each with its number as the loss."""
    for _ in range(count):
        flag = torch.tensor(applied)
        run.learner.skipped.count(flag)
        numbers = {"loss_nats": torch.tensor(float(run.step)), "loss_over_ln_k": torch.tensor(0.5)}
        numbers |= {"teacher_entropy_nats": torch.tensor(1.0), "feature_std": torch.tensor(0.5)}
        run.step += 1
        log.step_done(StepOutcome(applied=flag, grad_norm=torch.tensor(1.0), health=numbers))


@pytest.fixture
def begun(run: Run):
    """A function that begins the log of the run."""
    with MetricsLog(run.out, start_step=0, tensorboard=False) as metrics:
        progress = Progress(total_steps=run.total_steps, start_step=0, visible=False)
        yield lambda *, late: StepLog(run, metrics, progress, late=late)


def written(run: Run) -> list[tuple[float, float]]:
    return [(row["step"], row["loss_nats"]) for row in read_rows(run.out / "metrics.jsonl")]


def test_a_row_is_written_at_once_where_nothing_is_gained_by_waiting(run: Run, begun):
    log = begun(late=False)
    steps(run, log, 4)
    assert written(run) == [(0, 0.0), (3, 3.0)]


def test_a_late_row_is_written_one_step_later_with_the_numbers_of_its_step(run: Run, begun):
    log = begun(late=True)
    steps(run, log, 1)
    assert written(run) == []
    steps(run, log, 3)
    assert written(run) == [(0, 0.0)]
    log.settle()
    assert written(run) == [(0, 0.0), (3, 3.0)]
    assert [row["epoch"] for row in read_rows(run.out / "metrics.jsonl")] == [1 / 3, 4 / 3]


def test_the_last_step_has_a_row(run: Run, begun):
    log = begun(late=True)
    steps(run, log, run.total_steps)
    log.settle()
    assert [step for step, _ in written(run)] == [0, 3, 6, 9, 11]


def test_steps_called_off_are_counted_between_rows(run: Run, begun, caplog):
    run.skipped_before = 5
    log = begun(late=False)
    with caplog.at_level(logging.WARNING):
        steps(run, log, 1)
        steps(run, log, 2, applied=False)
        assert log.skipped_in_a_row == 0  # known with the next row
        steps(run, log, 1)
    assert log.skipped_in_a_row == 2
    assert "up to step 3, 2 more steps were not finite and changed nothing" in caplog.text
    rows = read_rows(run.out / "metrics.jsonl")
    assert [row["skipped_steps"] for row in rows] == [5, 7]
    assert all("skipped_in_a_row" not in row for row in rows)
