"""Whole runs: what they write, how they resume, and what they say when they cannot start."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import load_backbone, save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from dino_train.cli import main
from dino_train.records.metrics import read_rows
from dino_train.records.settings import differences
from tests.infer.weights.foreign_weights import training_state

SMALL = (
    "tiny_cpu --model.arch vit_micro --model.drop-path-rate 0.2 --crops.global-crops-size 32 "
    "--crops.local-crops-size 16 --crops.local-crops-number 2 --head.out-dim 64 "
    "--head.hidden-dim 32 --head.bottleneck-dim 16 --head.no-use-bn --optim.batch-size 4 "
    "--optim.epochs 6 --optim.freeze-last-layer-epochs 1 --optim.precision fp32 "
    "--run.snapshot-epochs 3 --run.log-every 1 --run.eval-epochs 3 --device cpu --no-tensorboard"
).split()
ADVICE = ("lower --optim.lr", "--optim.clip-grad 0.3", "--optim.precision fp32")  # on divergence
# Speed differs from run to run; everything else must not.
TIMINGS = {"step_time_s", "images_per_s", "data_wait_share"}


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return [*SMALL, "--data", str(data), "--out", str(out), *more]


def start(args: list[str], *launcher: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "dino_train.cli", *args]
    # One thread, as here: the order of floating-point sums must not depend on the machine's load.
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def finish(process: subprocess.Popen, code: int = 0) -> str:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors.decode()
    return errors.decode()


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def last_state(run: Path) -> dict:
    return torch.load(sorted((run / "snapshots").glob("*.pt"))[-1], weights_only=True)


def assert_equal_states(one: dict, other: dict, path: str = "") -> None:
    assert one.keys() == other.keys(), path
    for key, value in one.items():
        if isinstance(value, dict):
            assert_equal_states(value, other[key], f"{path}/{key}")
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), f"{path}/{key}"
        else:
            assert value == other[key], f"{path}/{key}"


def rows_without_timings(run: Path) -> list[dict]:
    rows = read_rows(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


def test_a_run_writes_what_the_formats_promise(image_folder, tmp_path: Path, capsys):
    data, run = image_folder(count=14), tmp_path / "run"
    (data / "class_0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert main(arguments(data, run, "--eval-data", str(image_folder("eval")), "--workers", "0",
                          "--run.max-bad-share", "0.2")) == 0  # fmt: skip
    output = capsys.readouterr().out
    assert "step 18 of 18" in output and "knn_top1_percent" in output
    assert f"unreadable images: 1, listed in {run / 'failures.jsonl'}" in output
    for path in run.iterdir():
        assert f": {path}" in output or f"in {path}" in output, path

    config = json.loads((run / "config.json").read_text())
    assert config["config"]["head"]["out_dim"] == 64 and config["data"]["images"] == 15
    rows = read_rows(run / "metrics.jsonl")
    assert [r["step"] for r in rows if "loss_nats" in r] == list(range(18))
    assert [r["epoch"] for r in rows if "rankme" in r] == [0.0, 3.0, 6.0]
    assert all("knn_top1_percent" in r for r in rows if "rankme" in r)
    failures = [json.loads(line) for line in (run / "failures.jsonl").read_text().splitlines()]
    assert [(Path(f["path"]).name, f["kind"]) for f in failures] == [("broken.png", "corrupt")]

    backbone, info = load_backbone(run)
    assert (info.arch, info.patch_size, info.image_size) == ("vit_micro", 8, 32)
    assert (info.recipe, info.step, info.epoch) == ("tiny_cpu", 18, 6.0)
    teacher = last_state(run)["teacher"]
    weight = backbone.network.state_dict()["blocks.0.attn.qkv.weight"]
    assert torch.equal(weight, teacher["backbone.network.blocks.0.attn.qkv.weight"])

    for name in ("curves.png", "attention.png"):
        assert np.asarray(Image.open(run / "report" / name)).std() > 5, name
    page = (run / "report" / "index.html").read_text()
    assert "After 18 steps" in page and "loss_nats" in page
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoint.safetensors",
        "config.json",
        "failures.jsonl",
        "metrics.jsonl",
        "report",
        "snapshots",
    ]


def test_kill_9_and_the_same_command_equal_an_uninterrupted_run(
    image_folder, tmp_path: Path, capsys
):
    data = image_folder(count=26)  # 6 steps an epoch, so the first snapshot is mid-epoch
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    half = ("--run.snapshot-epochs", "1.5", "--optim.epochs", "3")
    process = start(arguments(data, killed, *half, "--workers", "2"))
    wait_for(lambda: (killed / "snapshots" / "step-00000009.pt").exists(), process)
    process.kill()
    process.communicate()
    assert not (killed / "snapshots" / "step-00000018.pt").exists()
    assert main(arguments(data, killed, *half, "--workers", "1")) == 0
    assert re.search(r"going on from .*step-00000009.pt, step 9 of 18", capsys.readouterr().err)
    assert main(arguments(data, whole, *half, "--workers", "0")) == 0
    assert_equal_states(last_state(whole), last_state(killed))
    assert rows_without_timings(whole) == rows_without_timings(killed)
    names = [sorted(p.name for p in run.rglob("step-*.npz")) for run in (whole, killed)]
    assert names[0] == names[1]


def test_sigterm_saves_and_the_run_goes_on_exactly(image_folder, tmp_path: Path):
    data = image_folder(count=26)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    rarely = ("--run.snapshot-epochs", "100", "--optim.epochs", "4")
    process = start(arguments(data, stopped, *rarely, "--workers", "1"))
    wait_for(lambda: len(read_rows(stopped / "metrics.jsonl")) >= 4, process)
    process.send_signal(signal.SIGTERM)
    assert "stopping after this step; the run can be resumed" in finish(process, code=130)
    assert 0 < last_state(stopped)["step"] < 24
    assert main(arguments(data, stopped, *rarely, "--workers", "0")) == 0
    assert main(arguments(data, whole, *rarely, "--workers", "0")) == 0
    assert_equal_states(last_state(whole), last_state(stopped))
    assert rows_without_timings(whole) == rows_without_timings(stopped)


def test_two_gloo_processes_equal_one_with_the_same_global_batch(image_folder, tmp_path: Path):
    data = image_folder(count=12)
    one, two = tmp_path / "one", tmp_path / "two"
    more = ["--model.drop-path-rate", "0", "--optim.batch-size", "4", "--optim.epochs", "2",
            "--optim.warmup-epochs", "0.5", "--optim.freeze-last-layer-epochs", "0",
            "--workers", "0", "--local-rank", "1"]  # fmt: skip
    assert main(arguments(data, one, *more)) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finish(start(arguments(data, two, *more), *torchrun))
    ours, theirs = last_state(one), last_state(two)
    assert ours["step"] == theirs["step"] == 6
    for part in ("student", "teacher", "center"):
        for name, value in ours[part].items():
            both = [value, theirs[part][name]]
            if name.endswith("qkv.bias"):  # the key third has gradient zero: Adam steps on noise
                both = [torch.cat([v[:128], v[256:]]) for v in both]
            torch.testing.assert_close(*both, rtol=0, atol=1e-5, msg=f"{part} {name}")
    losses = [
        [r["loss_nats"] for r in read_rows(run / "metrics.jsonl") if "loss_nats" in r]
        for run in (one, two)
    ]
    np.testing.assert_allclose(*losses, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_run_takes_the_same_steps(image_folder, tmp_path: Path):
    data, more = image_folder(), ("--workers", "0", "--optim.epochs", "2")
    more += ("--model.drop-path-rate", "0")  # compiled networks draw other random numbers
    losses = []
    for name, flags in (("plain", ()), ("compiled", ("--compile",))):
        finish(start(arguments(data, tmp_path / name, *more, *flags)))
        rows = read_rows(tmp_path / name / "metrics.jsonl")
        losses.append([row["loss_nats"] for row in rows if "loss_nats" in row])
    np.testing.assert_allclose(*losses, atol=1e-4)


def test_a_finished_run_can_be_extended(image_folder, tmp_path: Path, capsys):
    data, run = image_folder(), tmp_path / "run"
    flags = ("--workers", "0", "--run.snapshot-epochs", "2")
    assert main(arguments(data, run, *flags, "--optim.epochs", "2")) == 0
    assert main(arguments(data, run, *flags, "--optim.epochs", "4")) == 1
    assert "optim.epochs: 2 -> 4" in capsys.readouterr().err
    assert main(arguments(data, run, *flags, "--optim.epochs", "4", "--extend")) == 0
    assert last_state(run)["step"] == 12


def test_auto_keeps_the_settings_of_a_run_and_extends_it(image_folder, tmp_path: Path, capsys):
    run = tmp_path / "run"
    command = ["--data", str(image_folder(count=24)), "--out", str(run), "--workers", "0",
               "--model.arch", "vit_micro", "--head.out-dim", "64", "--no-tensorboard",
               "--device", "cpu"]  # fmt: skip
    assert main([*command, "--optim.epochs", "2"]) == 0
    assert "auto settings for 24 images" in capsys.readouterr().err
    begun = json.loads((run / "config.json").read_text())["config"]
    assert begun["crops"]["global_crops_size"] == 40 and begun["model"]["patch_size"] == 5
    assert main([*command, "--optim.epochs", "3", "--extend"]) == 0
    extended = json.loads((run / "config.json").read_text())["config"]
    assert differences(begun, extended) == {"optim.epochs": "2 -> 3"}
    assert last_state(run)["step"] == 3 * (24 // begun["optim"]["batch_size"])


def test_training_starts_from_given_weights(image_folder, tmp_path: Path, capsys):
    data, first, second = image_folder(), tmp_path / "first", tmp_path / "second"
    assert main(arguments(data, first, "--workers", "0", "--optim.epochs", "2")) == 0
    frozen = ("--optim.epochs", "2", "--optim.freeze-backbone-epochs", "2")
    assert main(arguments(data, second, "--workers", "0", "--init-from", str(first), *frozen)) == 0
    before, after = (load_backbone(run)[0].state_dict() for run in (first, second))
    for name, value in before.items():
        torch.testing.assert_close(value, after[name], rtol=0, atol=1e-6)
    assert "with its head and centre" in capsys.readouterr().err
    other_head = ("--head.out-dim", "32", "--optim.epochs", "2", "--init-from", str(first))
    assert main(arguments(data, tmp_path / "again", "--workers", "0", *other_head)) == 0
    assert "with a new head" in capsys.readouterr().err
    wrong = (*frozen, "--model.arch", "vit_tiny", "--init-from", str(first))
    assert main(arguments(data, tmp_path / "third", "--workers", "0", *wrong)) == 1
    assert "does not fit 'vit_tiny'" in capsys.readouterr().err


def test_features_that_are_not_finite_are_told_the_settings_of_training(
    image_folder, tmp_path: Path, capsys
):
    network = build_backbone("vit_micro", patch_size=8, image_size=32)
    network.network.norm.weight.data.fill_(float("inf"))
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    save_checkpoint(tmp_path / "w.safetensors", network, info)
    weights = ("--workers", "0", "--init-from", str(tmp_path / "w.safetensors"))
    assert main(arguments(image_folder(), tmp_path / "run", *weights)) == 1
    said = capsys.readouterr().err
    for advice in ADVICE:
        assert advice in said
    assert " --precision" not in said


def test_training_starts_from_a_checkpoint_of_the_original(image_folder, tmp_path: Path, capsys):
    teacher = build_backbone("vit_micro", patch_size=8, image_size=32)
    path = tmp_path / "checkpoint.pth"
    torch.save(training_state(teacher, arch="vit_micro"), path)
    data = image_folder()
    frozen = ("--workers", "0", "--optim.epochs", "2", "--optim.freeze-backbone-epochs", "2",
              "--init-from", str(path))  # fmt: skip
    for key, sign in (("teacher", 1), ("student", -1)):
        run = tmp_path / key
        assert main(arguments(data, run, *frozen, "--checkpoint-key", key)) == 0
        after = load_backbone(run)[0].state_dict()
        for name, value in teacher.state_dict().items():
            torch.testing.assert_close(sign * value, after[name], rtol=0, atol=1e-6)
    assert main(arguments(data, run, *frozen)) == 1
    assert "checkpoint.pth (student)' -> '" in capsys.readouterr().err
    assert main(arguments(data, tmp_path / "new", *frozen, "--checkpoint-key", "mentor")) == 1
    assert "one of 'student.backbone', 'teacher.backbone'" in capsys.readouterr().err


def test_non_finite_steps_in_a_row_stop_with_a_usable_snapshot(image_folder, tmp_path, capsys):
    data, run = image_folder(), tmp_path / "run"
    explode = ("--optim.lr", "1e30", "--optim.warmup-epochs", "0", "--optim.clip-grad", "0",
               "--run.max-nonfinite-steps", "3", "--workers", "0")  # fmt: skip
    assert main(arguments(data, run, *explode)) == 1
    errors = capsys.readouterr().err
    assert "3 steps in a row were not finite" in errors
    for advice in ADVICE:
        assert advice in errors
    assert last_state(run)["skipped_steps"] == 3


@pytest.mark.parametrize("bad", [6, 12])
def test_too_many_bad_files_stop_the_run(image_folder, tmp_path: Path, capsys, bad: int):
    data = image_folder(count=12)
    for path in sorted(data.rglob("*.png"))[:bad]:
        path.write_bytes(b"")
    assert main(arguments(data, tmp_path / "run", "--workers", "0")) == 1
    assert "cannot be read, more than the 5.0% allowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--data", "{tmp}/nothing"], 1, "nothing"),
        (["--data", "{tmp}/empty"], 1, "empty"),
        (["--optim.batch-size", "64"], 1, "pass --optim.batch-size 12 or less"),
        (["--optim.batch-size", "5", "--optim.accumulation-steps", "2"], 2, "multiple of"),
        (["--init-from", "{tmp}/nothing.pth"], 1, "nothing.pth"),
        (["--model.arch", "vit_smal"], 2, "nearest: vit_small"),
        (["--crops.local-crops-size", "4"], 2, "must hold at least one patch of 8 px, got 4"),
        (["--teacher.teacher-temp", "0"], 2, "teacher.teacher_temp must lie in (0"),
        (["--crops.global-crops-scale", "0.5", "1.5"], 2, "global_crops_scale"),
        (["--out", "{tmp}/file"], 1, "is a file"),
        (["--out", "{tmp}/file/run", "--init-from", "{tmp}/nothing.pth"], 1, "file' is a file"),
        (["--eval-data", "{tmp}/flat"], 1, "a folder for each class"),
        (["--optim.epoch", "3"], 2, "--optim.epochs"),
        (["--device", "cuda:99"], 1, "cuda:99"),
        (["--wandb", "project"], 1, "pip install 'dino-toolkit[wandb]'"),
        (["--model.arch", "vit_tiny", "--init-from", "{tmp}/micro.safetensors"], 1, "vit_micro"),
    ],
)
def test_wrong_input_gets_one_clear_line(
    image_folder, tmp_path: Path, capsys, flags: list[str], code: int, message: str
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    data = image_folder(count=12)
    (tmp_path / "flat").mkdir()
    micro = build_backbone("vit_micro", patch_size=8, image_size=32)
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    save_checkpoint(tmp_path / "micro.safetensors", micro, info)
    Image.new("RGB", (40, 40)).save(tmp_path / "flat" / "a.png")
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    assert main(arguments(data, tmp_path / "run", "--workers", "0", *flags)) == code
    errors = capsys.readouterr().err
    assert message in " ".join(errors.replace("│", " ").split())
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("launcher", [[], ["--local-rank=1"], ["--local_rank", "1"]])
def test_an_unknown_recipe_is_a_usage_error(tmp_path: Path, capsys, launcher: list[str]):
    rest = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main([*launcher, "tiny", *rest]) == 2
    assert "no recipe named 'tiny'" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["auto", "tiny_cpu"])
def test_a_table_with_an_unusual_column_asks_for_its_name(tmp_path: Path, capsys, recipe: str):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"photo": [b"x"]}), tmp_path / "t.parquet")
    command = [recipe, "--data", str(tmp_path / "t.parquet"), "--out", str(tmp_path / "run")]
    assert main(command) == 1
    assert "pass --image-column NAME" in capsys.readouterr().err
    assert main([*command, "--image-column", "photo"]) != 0  # one image, and none at that
    assert "image-column" not in capsys.readouterr().err


def test_help_lists_recipes_and_options(capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert "imagenet_vits16" in output and "--optim.batch-size" in output
