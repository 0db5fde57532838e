"""kill -9 at any moment: what was acknowledged is there, and nothing is half there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
KILLS, MANY_KILLS = 5, 100
TIMEOUT_S = 500
FEWEST_STEPS = {"upsert": 3, "delete": 3, "merge": 10, "snapshot": 8, "restore": 8}


def report_of(kills, folder):
    command = [
        sys.executable,
        "-m",
        "tests.app.store.faiss_store.killed_writers",
        str(kills),
        folder,
    ]
    paths = os.pathsep.join(str(ROOT / name) for name in ("", "app"))
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


def test_killed_writers_lose_nothing(tmp_path):
    report = report_of(KILLS, tmp_path)
    assert report["random"]["operations"] > KILLS
    for name, fewest in FEWEST_STEPS.items():
        assert report["steps"][name] >= fewest, report


@pytest.mark.slow
def test_a_hundred_killed_writers_lose_nothing(tmp_path):
    report = report_of(MANY_KILLS, tmp_path)
    assert report["random"]["operations"] > MANY_KILLS and report["random"]["in_merges"] > 0
