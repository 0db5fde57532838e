"""Shares of a job are consecutive, disjoint and whole, and launchers say which is whose."""

import pytest
from hypothesis import given, strategies as st

from dino_infer.features.shards import Share, device_of_share, launched_with, share_of


@given(total=st.integers(0, 500), count=st.integers(1, 40), step=st.integers(1, 33))
def test_shares_cover_everything_once_and_begin_at_whole_steps(total, count, step):
    parts = [Share(index, count).slice_of(total, step=step) for index in range(count)]
    assert [place for part in parts for place in part] == list(range(total))
    assert all(part.start % step == 0 or not part for part in parts)
    steps = [-(-len(part) // step) for part in parts]
    assert max(steps) - min(steps) <= 1


def test_a_share_is_written_as_it_is_read():
    assert share_of("2/8") == Share(2, 8) and str(Share(2, 8)) == "2/8"


@pytest.mark.parametrize("text", ["8/8", "1/0", "-1/4", "1", "1/", "a/b", "1/2/3", ""])
def test_shares_that_do_not_exist_are_named(text):
    with pytest.raises(ValueError, match=f"got '{text}'"):
        share_of(text)


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "5"}
STEP = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        (TORCHRUN, Share(3, 4)),
        (ARRAY, Share(2, 3)),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "5"}, Share(0, 3)),
        ({k: v for k, v in ARRAY.items() if "MIN" not in k} | {"SLURM_ARRAY_TASK_ID": "2"},
         Share(2, 3)),
        (STEP, Share(1, 2)),
        (STEP | ARRAY, Share(2, 3)),  # each task of an array is one step
        (STEP | TORCHRUN, Share(3, 4)),
    ],
)  # fmt: skip
def test_auto_is_what_the_launcher_set(environment, share, monkeypatch):
    assert share_of("auto", environment) == share
    for name in {**TORCHRUN, **ARRAY, **STEP}:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert share_of("auto") == share


def test_auto_without_a_launcher_names_the_variables():
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE, SLURM_ARRAY_TASK_ID and .*COUNT"):
        share_of("auto", {"RANK": "0"})


def test_an_array_with_gaps_is_refused():
    with pytest.raises(ValueError, match="0/3 to 2/3, got 'SLURM_ARRAY_TASK_ID=9'"):
        share_of("auto", ARRAY | {"SLURM_ARRAY_TASK_ID": "9"})


def test_torchrun_says_how_many_processes_there_are():
    assert launched_with({}) == 1 and launched_with(TORCHRUN) == 4


def test_processes_of_one_machine_take_a_gpu_each():
    assert device_of_share("auto", {}) == "auto"
    assert device_of_share("cuda:2", TORCHRUN) == "cuda:2"
    import torch

    gpus = torch.cuda.device_count()
    assert device_of_share("auto", TORCHRUN) == (f"cuda:{1 % gpus}" if gpus else "cpu")
