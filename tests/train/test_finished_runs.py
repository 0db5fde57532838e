"""A finished run is finished: whatever killed it or was lost, the same command completes it."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dino_infer.files import hold_output
from dino_infer.weights.checkpoints import load_backbone, weights_sha256
from dino_infer.weights.files import tensors_sha256
from dino_infer.weights.run_folders import snapshots_of
from dino_train.cli import main
from dino_train.records.metrics import read_rows
from tests.killing import exit_code, forked, kill_before_step

TINY = (
    "tiny_cpu --model.arch vit_micro --model.patch-size 16 --crops.global-crops-size 16 "
    "--crops.local-crops-size 16 --crops.local-crops-number 0 --head.out-dim 8 "
    "--head.hidden-dim 8 --head.bottleneck-dim 4 --head.no-use-bn --optim.batch-size 4 "
    "--optim.epochs 2 --optim.warmup-epochs 0 --optim.freeze-last-layer-epochs 0 "
    "--optim.precision fp32 --device cpu --no-tensorboard --workers 0 --run.snapshot-epochs 1"
).split()
STEPS = 6
TIMINGS = {"step_time_s", "images_per_s", "data_wait_share"}
WRITTEN_AT_A_SNAPSHOT = (
    "snapshot", "checkpoint.safetensors", "attention/step-.npz", "attention.png", "curves.png",
    "index.html",
)  # fmt: skip
BEFORE = 2 + len(WRITTEN_AT_A_SNAPSHOT) - 3  # config.json, metrics.jsonl, a report without curves


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A function that gives the arguments of a run of six steps into a folder."""
    import numpy as np
    from PIL import Image

    data = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(data / f"{i}.png")
    return lambda run, *more: [*TINY, "--data", str(data), "--out", str(run), *more]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory) -> Path:
    """A run that nothing has interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(run)) == 0
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(whole, tmp_path / "run")


def content(run: Path) -> dict[str, object]:
    """Files by name, with what is in them as far as time does not change it."""
    found: dict[str, object] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        kept = "" if path.suffix in (".html", ".pt") else path.read_bytes()
        found[str(path.relative_to(run))] = kept
    for step, path in snapshots_of(run).items():
        found[path.name] = (step, tensors_sha256(torch.load(path)["student"]))
    found["metrics.jsonl"] = [
        {name: value for name, value in row.items() if name not in TIMINGS}
        for row in read_rows(run / "metrics.jsonl")
    ]
    for drawn in ("report/curves.png", "config.json"):  # speed is drawn; paths are written
        found[drawn] = ""
    return found


def killed(args: list[str], number: int) -> int:
    kill_before_step(number, steps=["replace"])
    return main(args)


@pytest.mark.parametrize(
    ("snapshots", "unfinished"), [(1, "checkpoint.safetensors"), (2, "checkpoint.safetensors"),
                                  (2, "curves.png")],
)  # fmt: skip
def test_killed_before_the_last_files_the_same_command_writes_them(
    command, whole: Path, tmp_path: Path, capsys, snapshots: int, unfinished: str
):
    run = tmp_path / "run"
    length = len(WRITTEN_AT_A_SNAPSHOT)
    number = BEFORE + (snapshots - 1) * length + WRITTEN_AT_A_SNAPSHOT.index(unfinished)
    assert exit_code(forked(lambda: killed(command(run), number))) is None
    assert max(snapshots_of(run)) == 3 * snapshots
    assert load_backbone(run)[1].step == 3 * snapshots  # before it is repaired, too
    assert main(command(run)) == 0
    assert f"step {STEPS} of {STEPS}" in capsys.readouterr().out
    assert content(run) == content(whole)


def test_asked_again_a_finished_run_tells_its_numbers_and_changes_nothing(command, run, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.glob("*.*") if path.is_file()}
    assert main(command(run)) == 0
    said = capsys.readouterr()
    assert "rankme: " in said.out and "writing it again" not in said.err
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize("lost", ["checkpoint.safetensors", "report", "metrics.jsonl"])
def test_what_a_finished_run_lost_is_written_again(command, run, whole, capsys, lost: str):
    path = run / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(command(run)) == 0
    assert "rankme: " in capsys.readouterr().out
    again = content(run)
    if lost == "metrics.jsonl":  # steps cannot be taken again, but their end is measured
        (row,) = again.pop("metrics.jsonl")
        assert row == [row for row in content(whole)["metrics.jsonl"] if "rankme" in row][-1]
    if lost == "report":  # of earlier steps there are no weights to draw attention with
        assert again.pop("report/attention.png")
    rest = {name: kept for name, kept in content(whole).items() if name in again}
    assert again == rest and "report/index.html" in again and "checkpoint.safetensors" in again


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "older", "foreign"])
def test_a_wrong_checkpoint_of_a_finished_run_is_written_again(
    command, run: Path, whole: Path, capsys, damage: str
):
    path = run / "checkpoint.safetensors"
    right = path.read_bytes()
    flipped = bytearray(right)
    flipped[-100] ^= 1
    wrong = {"flipped": bytes(flipped), "cut": right[:-1], "empty": b""}
    wrong["older"] = right.replace(b'\\"step\\": 6', b'\\"step\\": 3')
    wrong["foreign"] = b"PK\x03\x04" + right
    assert wrong[damage] != right
    path.write_bytes(wrong[damage])
    assert main(command(run)) == 0
    assert "writing it again" in capsys.readouterr().err
    assert path.read_bytes() == right


def test_a_full_disk_before_the_checkpoint_fails_and_the_same_command_completes(
    command, whole: Path, tmp_path: Path, capsys, monkeypatch
):
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.save_file", full_disk)
        assert main(command(run)) == 1
        assert "cannot write checkpoint" in capsys.readouterr().err
        assert main(command(run)) == 1  # still no room: never a success without weights
    assert main(command(run)) == 0
    assert weights_sha256(load_backbone(run)[0]) == weights_sha256(load_backbone(whole)[0])


HELD = """
import sys
from dino_infer.files import hold_output
from dino_infer.weights.run_folders import snapshots_of
from dino_infer.weights.files import tensors_sha256
with hold_output(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_on_a_run_folder_ends_with_one_line(command, run: Path, capsys):
    holder = subprocess.Popen(
        [sys.executable, "-c", HELD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    before = content(run)
    assert main(command(run)) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and f"process {holder.pid} writes to it" in errors[0]
    assert content(run) == before | {".dino-lock": before[".dino-lock"]}
    holder.kill()
    holder.wait()
    assert main(command(run)) == 0  # the lock went with its process
    holder.communicate()


def test_processes_started_together_end_when_the_folder_is_in_use(command, run: Path):
    with hold_output(run):
        launched = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
             "2", "-m", "dino_train.cli", *command(run)],
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
    assert launched.returncode == 1
    said = [line for line in launched.stderr.splitlines() if line.startswith("dino-train: error")]
    assert len(said) == 1 and "is in use" in said[0]
    assert "Gloo" not in launched.stderr and "RuntimeError" not in launched.stderr


def test_a_run_that_could_not_begin_leaves_no_folder(command, tmp_path: Path, capsys):
    run = tmp_path / "some" / "where" / "run"
    assert main(command(run, "--init-from", str(tmp_path / "nothing.pth"))) == 1
    assert list(tmp_path.iterdir()) == []
