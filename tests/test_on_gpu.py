"""What a GPU is asked in one command: parts end alone, and all of it can be rehearsed on a CPU."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from dino_infer.weights.checkpoints import load_backbone

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = """
import subprocess, sys, time
part = sys.argv[2]
if part == "hangs":
    subprocess.run([sys.executable, "-c", "import time; time.sleep(300)"])
sys.exit(3 if part == "fails" else 0)
"""


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def results(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_a_part_that_fails_or_hangs_takes_no_other_down(tmp_path: Path):
    from on_gpu import watch_parts

    start_s = time.monotonic()
    limits = {"fails": 60.0, "hangs": 2.0, "works": 60.0}
    command = [sys.executable, "-c", PARTS]
    watch_parts(command, limits, out=tmp_path, end_s=start_s + 120)
    assert time.monotonic() - start_s < 100
    ends = {row["part"]: row["ended"] for row in results(tmp_path)}
    assert ends == {
        "fails": "failed: exit code 3, see log.txt",
        "hangs": "stopped after 2 s",
        "works": "well",
    }
    watch_parts(command, {"late": 9.0}, out=tmp_path, end_s=time.monotonic())
    assert results(tmp_path)[-1] == {"part": "late", "ended": "not begun: no time was left"}


def test_a_bundle_keeps_the_same_share_of_every_class(image_folder, tmp_path: Path):
    from gpu_bundle import main

    train, val = image_folder("train", count=60), image_folder("val", count=12)
    size = sum(path.stat().st_size for path in train.rglob("*.png"))
    content = []
    for name in ("one.zip", "two.zip"):
        given = ["-o", str(tmp_path / name), "--mb", str(size / 1e6)]
        assert main([str(train), str(val), *given]) == 0
        content.append((tmp_path / name).read_bytes())
    assert content[0] == content[1] and len(content[0]) <= size
    counts = dict.fromkeys(((part, f"class_{i}") for part in ("train", "val") for i in range(3)), 0)
    for name in zipfile.ZipFile(tmp_path / "one.zip").namelist():
        part, label, _ = name.split("/")
        counts[part, label] += 1
    (train_share,) = {number for (part, _), number in counts.items() if part == "train"}
    (val_share,) = {number for (part, _), number in counts.items() if part == "val"}
    assert 0 < train_share < 20 and 0 < val_share <= 4


@pytest.mark.slow
def test_everything_can_be_rehearsed_on_a_cpu(image_folder, tmp_path: Path):
    from gpu_bundle import main
    from on_gpu import PARTS as ALL_PARTS

    bundle, out = tmp_path / "bundle.zip", tmp_path / "out"
    main([str(image_folder("train")), str(image_folder("val")), "-o", str(bundle)])
    command = [sys.executable, str(BENCHMARKS / "on_gpu.py"), "--data", str(bundle), "--rehearse"]
    subprocess.run([*command, "--out", str(out), "--minutes", "9"], check=True)
    rows = results(out)
    assert {row["part"]: row["ended"] for row in rows if "ended" in row} == dict.fromkeys(
        ALL_PARTS, "well"
    ), (out / "log.txt").read_text()
    steps = [row for row in rows if "share_of_peak" in row]
    assert len(steps) == 4 and all(row["share_of_peak"] > 0 for row in steps)
    assert sum("stages_ms" in row for row in rows) == 4
    chosen = {row["check"]: row["chosen"] for row in rows if "check" in row}
    assert chosen["crops"] == "dino_train.crops.triton_kernels"
    assert chosen["fused adamw"] == chosen["fused sgd"] == "True" and "_by" in chosen["decoder"]
    assert next(row for row in rows if "exit_code" in row)["exit_code"] == 0
    assert [row["loss"] for row in rows if "knn_top1_percent" in row] == ["dino", "coding-rate"]
    pieces = sorted(out.glob("*.safetensors.*"))
    whole = tmp_path / "joined.safetensors"
    whole.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    assert load_backbone(whole)[1].arch == "vit_micro"
