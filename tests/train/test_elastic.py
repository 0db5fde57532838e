"""Processes of a run that are killed, come back, or are fewer than before."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dino_train.cli import main
from dino_train.records.metrics import read_rows
from tests.train.ranks import start_ranks
from tests.train.test_pretraining import arguments

SAME = 1e-5  # float32 sums over processes come in another order
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


def losses(run: Path) -> dict[int, float]:
    rows = read_rows(run / "metrics.jsonl")
    return {int(row["step"]): row["loss_nats"] for row in rows if "loss_nats" in row}


def wait_until(true: Callable[[], bool], *, limit_s: float = 900) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_same_losses(run: Path, whole: Path) -> None:
    ours, theirs = losses(run), losses(whole)
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=0, atol=SAME)


def test_a_run_whose_process_was_killed_goes_on_with_fewer(image_folder, tmp_path: Path, capsys):
    data, whole, killed = image_folder(count=16), tmp_path / "whole", tmp_path / "killed"
    more = ("--model.drop-path-rate", "0", "--optim.epochs", "2", "--run.snapshot-epochs", "1",
            "--workers", "0", "--optim.freeze-last-layer-epochs", "0")  # fmt: skip
    ranks = start_ranks(arguments(data, killed, *more), 2, log=tmp_path / "log")
    wait_until(lambda: len(losses(killed)) > 5 or not ranks[0].is_alive())  # of 8 steps
    ranks[1].kill()
    ranks[0].join(60)
    assert ranks[0].exitcode == 1, (tmp_path / "log").read_text()
    assert "error: process 0 lost another one, which has ended" in (tmp_path / "log").read_text()
    assert json.loads((killed / "config.json").read_text())["processes"] == 2

    assert main(arguments(data, killed, *more)) == 0
    said = capsys.readouterr().err
    assert "1 processes go on with what 2 began: each takes 2 x 2 images a step" in said
    assert "going on from" in said
    assert main(arguments(data, whole, *more)) == 0
    assert_same_losses(killed, whole)
    ranks[1].join()


def test_a_batch_that_processes_cannot_share_is_refused_once(image_folder, tmp_path: Path):
    run, log = tmp_path / "run", tmp_path / "log"
    more = ("--optim.batch-size", "9", "--workers", "0")
    ranks = start_ranks(arguments(image_folder(), run, *more), 2, log=log)
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [2, 1]
    (line,) = log.read_text().splitlines()
    assert "--optim.batch-size must be a multiple of processes" in line
    assert line.endswith("= 2 x 1, got 9; it is one with 1 or 3 processes")
    assert not run.exists()


LONG = ("--model.drop-path-rate", "0", "--optim.batch-size", "8", "--optim.epochs", "10",
        "--run.snapshot-epochs", "2", "--run.eval-epochs", "10", "--workers", "0")  # fmt: skip
PATIENCE_S = 1800.0


def workers_of(agent: subprocess.Popen) -> dict[int, int]:
    """Process numbers of an agent's workers by their ranks, as Linux tells them."""
    found = {}
    for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
        names = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        found.update({int(n.removeprefix("RANK=")): int(pid) for n in names if n[:5] == "RANK="})
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("number", "minutes"), [(signal.SIGKILL, "30"), (signal.SIGSTOP, "0.5")])
def test_torchrun_restarts_what_lost_a_worker(image_folder, tmp_path: Path, number, minutes):
    data = image_folder(count=80)  # 10 steps an epoch, 100 in all, snapshots at 20, 40 ...
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    four = (*TORCHRUN, "--standalone", "--nproc-per-node", "4", "--max-restarts", "1",
            "-m", "dino_train.cli")  # fmt: skip
    more = (*LONG, "--timeout-minutes", minutes)
    subprocess.run([*four, *arguments(data, whole, *more)], env=ONE_THREAD, check=True)
    with (tmp_path / "log").open("w") as log:
        command = [*four, *arguments(data, broken, *more)]
        agent = subprocess.Popen(command, env=ONE_THREAD, stderr=log)
    wait_until(lambda: len(losses(broken)) > 50)
    os.kill(workers_of(agent)[2], number)
    assert agent.wait(PATIENCE_S) == 0
    said = (tmp_path / "log").read_text()
    assert "lost another one" in said and "Traceback" not in said
    assert "step-00000040.pt, step 40 of 100" in said
    assert_same_losses(broken, whole)
