"""What is said, after the first steps, about the length of a run."""

import logging

import pytest
import torch

from dino_train import recipes
from dino_train.distributed import Process
from dino_train.monitoring.estimates import Estimate, in_words
from dino_train.run import Run


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def said(caplog):
    """A function that takes steps of equal length, and returns what was logged."""

    def run(step_s: float, *, total=4_000, images=47, config=None, device="cpu", pause_s=1.0):
        clock = Clock()
        config = config or recipes.imagenet_vits16()
        run = Run.__new__(Run)  # without networks
        run.step, run.total_steps, run.eval_steps, run.snapshot_steps = 0, total, 5, 10
        run.images, run.config = range(images), config
        run.process = Process(rank=0, world_size=1, device=torch.device(device))
        estimate = Estimate(run, clock=clock)
        clock.now += pause_s
        estimate.pause_ended()
        clock.now += 100  # the first step, which loads and compiles
        with caplog.at_level(logging.INFO, "dino_train"):
            for _ in range(20):
                run.step += 1
                estimate.step_done()
                clock.now += step_s
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return run


def test_the_estimate_is_said_once_with_a_faster_way(said):
    assert said(10.0) == [
        ("INFO", "about 11 h for the 3,996 steps left on this CPU; `tiny_cpu` takes minutes")
    ]


def test_more_than_a_day_is_warned_of(said):
    ((level, message),) = said(60.0)
    assert level == "WARNING" and message.startswith("about 3 days for the 3,996 steps left")


def test_measuring_and_saving_count(said):
    ((_, message),) = said(10.0, pause_s=20.0)
    assert message.startswith("about 16 h")  # 799 pauses of 20 s beside 3,996 steps of 10 s


def test_no_faster_way_is_claimed_where_there_is_none(said):
    ((_, message),) = said(10.0, images=1_000_000)
    assert message.endswith(
        "fewer `optim.epochs`, a smaller `model.arch` or smaller crops shorten it"
    )


def test_a_gpu_is_called_one(said):
    ((_, message),) = said(10.0, device="cuda")
    assert "on this GPU" in message and "tiny_cpu" not in message


def test_a_short_run_is_passed_over(said):
    assert said(2.0, total=20, pause_s=0.0) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(59, "59 s"), (600, "10 min"), (7_199, "120 min"), (40_000, "11 h"), (3 * 86_400, "3 days")],
)
def test_durations_are_said_as_people_do(seconds: float, words: str):
    assert in_words(seconds) == words
