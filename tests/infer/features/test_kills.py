"""kill -9 at any moment: what is made afterwards is the same bytes as without it."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from tests.infer.pixel_engine import contents

ROOT = Path(__file__).parents[3]
IMAGES, KILLS, BEGUN = 80, 12, 3
TIMEOUT_S = 800
FEWEST_STEPS = 20  # on disk, of a small set


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs, and the report about them."""
    root = tmp_path_factory.mktemp("kills")
    images = root / "images"
    images.mkdir()
    for i in range(IMAGES):
        colour = (i, 255 - i, 7 * i % 256)
        Image.new("RGB", (24 + i % 9, 20), colour).save(images / f"{i:03}.png")
    (images / "040a.png").touch()
    (images / "060a.jpg").write_text("no image")
    torch.manual_seed(0)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    save_checkpoint(root / "micro.safetensors", backbone, info)
    command = [
        sys.executable,
        "-m",
        "tests.infer.features.killed_runs",
        images,
        root / "micro.safetensors",
    ]
    done = subprocess.run(
        [*command, root], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    return root, json.loads((root / "report.json").read_text())


def test_kills_at_random_moments_leave_no_trace(runs):
    root, report = runs
    codes, found = report["random"]["codes"], report["random"]["found"]
    assert set(codes) == {3}  # finished, and some images failed
    assert len(found) >= KILLS and Counter(found)["begun"] >= BEGUN, Counter(found)
    whole = contents(root / "random" / "whole")
    assert set(whole) == {"feats.npy", "feats.parquet", "feats.json", "feats.failed.jsonl"}
    assert len(whole["feats.failed.jsonl"].splitlines()) == 2
    for number in range(1, len(codes)):
        assert contents(root / "random" / f"round-{number}") == whole


@pytest.mark.parametrize("name", ["new", "table", "update", "overwrite", "merge", "partitions"])
def test_a_kill_before_any_step_leaves_no_trace(runs, name):
    root, report = runs
    whole, *killed, outlived, again = report["steps"][name]
    assert (whole, outlived, again) == (0, 0, 0)
    assert set(killed) == {None} and len(killed) > FEWEST_STEPS
    expected = contents(root / "steps" / name / "whole")
    assert expected.keys() & {"feats.json", "set/manifests/manifest_0001.json"}
    for step in range(len(killed) + 1):
        assert contents(root / "steps" / name / f"step-{step:02}") == expected, step
