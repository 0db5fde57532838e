"""dino-export in-process: results on stdout, one error line on stderr, exact exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_export.cli import main
from dino_export.parity import sample_photos
from dino_infer.embedding.embedder import Embedder
from dino_infer.files import hold_output
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from tests.export.networks import weights_file

ROOT = Path(__file__).parents[2]
SAME_PIXELS = 0.9999  # cosine: Pillow and PyTorch round pixels differently
TWO_STEPS = (
    "tiny_cpu --model.arch vit_micro --crops.global-crops-size 32 --crops.local-crops-number 0 "
    "--head.out-dim 64 --head.hidden-dim 32 --head.bottleneck-dim 16 --head.no-use-bn "
    "--optim.batch-size 4 --optim.epochs 1 --optim.warmup-epochs 0 --optim.precision fp32 "
    "--device cpu --no-tensorboard"
).split()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return weights_file(tmp_path_factory.mktemp("weights") / "small.safetensors")


@pytest.fixture(scope="module")
def exported(weights):
    path = weights.with_name("model.onnx")
    assert main([str(weights), "-o", str(path)]) == 0
    return path


def outcome(capsys, *args):
    """Exit code, stdout and stderr."""
    code = main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def rows_of_the_example(path, *photos):
    script = ROOT / "examples" / "onnx_embed.py"
    subprocess.run([sys.executable, script, path, *photos], check=True, capture_output=True)
    return np.load(path.with_suffix(".npy"))


def cosine(one, other):
    return (one @ other) / np.linalg.norm(one) / np.linalg.norm(other)


def test_an_export_prints_how_equal_it_is(capsys, weights, tmp_path):
    out = tmp_path / "model.ts"
    code, stdout, stderr = outcome(capsys, weights, "-o", out, "--outputs", "cls", "--size", "24")
    lines = stdout.splitlines()
    assert code == 0 and out.is_file()
    assert lines[0].split() == ["output", "max", "error", "mean", "error", "cosine"]
    assert lines[1].split()[0] == "cls" and float(lines[1].split()[1]) <= 1e-4
    assert "over 12 images of 24x24" in lines[2]
    assert "deprecated TorchScript, and this file holds for images of 24 x 24 alone" in stderr


def test_info_prints_what_a_file_says(capsys, exported):
    code, stdout, _ = outcome(capsys, "info", exported)
    about = json.loads(stdout)
    assert (code, about["arch"], about["recipe"], about["step"]) == (0, "vit", "small", 7)
    assert (about["opset"], about["dynamic"], about["size"]) == (20, ["batch", "size"], None)


def test_the_example_gives_the_embedders_rows(exported, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(sample_photos()[0]).save(photo)
    copy = tmp_path / "model.onnx"
    copy.write_bytes(exported.read_bytes())
    rows = rows_of_the_example(copy, photo, photo)
    assert rows.shape == (2, 64)
    assert cosine(rows[0], Embedder.load(copy, device="cpu")([photo])[0]) > SAME_PIXELS


def test_the_example_takes_files_that_normalise(weights, tmp_path):
    photo, path = tmp_path / "photo.png", tmp_path / "model.onnx"
    Image.fromarray(sample_photos()[0]).save(photo)
    assert main([str(weights), "-o", str(path), "--preprocess", "--outputs", "cls"]) == 0
    rows = rows_of_the_example(path, photo)
    assert cosine(rows[0], Embedder.load(path, device="cpu")([photo])[0]) > SAME_PIXELS


@pytest.mark.parametrize("ending", ["ts", "pt2"])
def test_info_reads_every_format(capsys, weights, tmp_path, ending):
    out = tmp_path / f"model.{ending}"
    assert outcome(capsys, weights, "-o", out, "--outputs", "cls")[0] == 0
    code, stdout, _ = outcome(capsys, "info", out)
    expected = {"ts": "torchscript", "pt2": "pt2"}[ending]
    assert (code, json.loads(stdout)["export_format"]) == (0, expected)


def test_info_says_what_it_cannot_read(capsys, weights):
    code, stdout, stderr = outcome(capsys, "info", weights)
    assert (code, stdout) == (1, "")
    assert "is not an export of this toolkit" in stderr and stderr.count("\n") == 1


def test_images_of_the_user_calibrate_and_are_compared(capsys, weights, tmp_path, image_folder):
    out = tmp_path / "model.onnx"
    images = ["--images", image_folder(count=5), "--outputs", "cls"]
    assert outcome(capsys, weights, "-o", out, "--precision", "int8", *images)[0] == 0
    _, stdout, _ = outcome(capsys, "info", out)
    assert json.loads(stdout)["calibration_images"] == 3


def test_a_snapshot_gives_its_head(capsys, tmp_path, image_folder):
    from dino_train.cli import main as train

    run = tmp_path / "run"
    assert train([*TWO_STEPS, "--data", str(image_folder(count=8)), "--out", str(run)]) == 0
    (snapshot,) = (run / "snapshots").glob("*.pt")
    out = tmp_path / "model.pt2"
    code, stdout, _ = outcome(capsys, snapshot, "-o", out, "--with-head", "--outputs", "cls")
    assert code == 0 and "logits " in stdout
    about = json.loads(outcome(capsys, "info", out)[1])
    assert (about["outputs"], about["step"]) == (["cls", "logits"], 2)


@pytest.mark.parametrize("to", ["hf", "timm", "dino-pth", "safetensors"])
def test_conversions_say_how_far_features_moved(capsys, weights, tmp_path, to):
    out = tmp_path / ("converted.pth" if to == "dino-pth" else "converted.safetensors")
    code, stdout, _ = outcome(capsys, weights, "-o", out, "--to", to)
    assert (code, out.exists()) == (0, True)
    first, *files = stdout.splitlines()
    assert first == f"{out}: read back, features differ by at most 0.0e+00 of their rms"
    assert files == ([str(path) for path in sorted(out.iterdir())] if out.is_dir() else [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "model.xyz"], "must end in one of .onnx"),
        (["-o", "model.onnx", "--to", "dino-pth"], "must end in '.pth'"),
        (["-o", "model.onnx", "--size", "4"], "at least one patch of 8 px"),
        (["-o", "model.onnx", "--size", "1", "2", "3"], "--size takes one side"),
        (["-o", "model.onnx", "--dynamic", "height"], "--dynamic takes"),
        (["-o", "model.onnx", "--outputs", "cls,maps"], "got 'maps'"),
        (["-o", "model.onnx", "--outputs", "patches"], "must hold 'cls'"),
        (["-o", "model.onnx", "--opset", "9"], "--opset must lie in"),
        (["-o", "model.pt2", "--precision", "int8"], "--precision int8 is for ONNX"),
        (["-o", "model.pt2", "--opset", "20"], "--opset is for ONNX files, got format 'pt2'"),
        (["-o", "model.ts", "--dynamic", "size"], "holds for one size and cannot take --dynamic"),
        (["-o", "model.onnx", "--dynamic", ""], "--dynamic takes"),
        (["-o", "model.onnx", "--dynamic", "none,batch"], "--dynamic takes"),
        (["-o", "model.onnx", "--outputs", "cls,cls"], "--outputs must name each output once"),
    ],
)
def test_usage_errors_are_one_line(capsys, weights, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = outcome(capsys, weights, *arguments)
    last = stderr.splitlines()[-1]
    assert (code, stdout) == (2, "")
    assert last.startswith("dino-export: error: ") and message in last
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags",
    [
        ["--format", "onnx"],
        ["--outputs", "cls"],
        ["--with-head"],
        ["--dynamic", "batch,size"],
        ["--size", "32"],
        ["--preprocess"],
        ["--precision", "fp32"],
        ["--opset", "20"],
        ["--images", "photos"],
        ["--device", "auto"],
    ],
)
def test_flags_of_exports_are_refused_where_weights_are_converted(capsys, tmp_path, flags):
    out = tmp_path / "timm"
    code, _, stderr = outcome(capsys, "none.pth", "-o", out, "--to", "timm", *flags)
    assert code == 2 and f"--to converts weights; {flags[0]} would say how to export" in stderr


def test_a_head_that_is_not_there_is_missed(capsys, weights, tmp_path):
    code, _, stderr = outcome(capsys, weights, "-o", tmp_path / "m.ts", "--with-head")
    assert code == 1 and "holds no head; pass a snapshot" in stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(capsys, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # what Python then takes for missing
    code, _, stderr = outcome(capsys, weights, "-o", tmp_path / "m.onnx")
    assert code == 1 and "'onnxscript'; install it with pip install 'dino-toolkit[exp" in stderr


def test_a_convnet_has_no_attention_to_export(capsys, tmp_path):
    backbone = build_backbone("resnet_micro")
    info = CheckpointInfo(arch="resnet_micro", patch_size=backbone.patch_size, image_size=64)
    save_checkpoint(tmp_path / "r.safetensors", backbone, info)
    out = tmp_path / "r.onnx"
    code, _, stderr = outcome(
        capsys, tmp_path / "r.safetensors", "-o", out, "--outputs", "cls,attention"
    )
    assert code == 2 and not out.exists()
    assert "no output 'attention', because 'resnet_micro' is no Vision" in stderr


def test_weights_that_do_not_match_are_an_error(capsys, tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "odd.pth")
    code, _, stderr = outcome(capsys, tmp_path / "odd.pth", "-o", tmp_path / "m.onnx")
    assert code == 1 and "holds no network" in stderr


def test_a_folder_that_is_missing_is_an_error(capsys, weights, tmp_path):
    code, _, stderr = outcome(capsys, weights, "-o", tmp_path / "no" / "m.onnx")
    assert code == 1 and "to write 'm.onnx' to; create it first" in stderr


@pytest.mark.parametrize("folder", ["sealed", "/sys", "/proc"])
@pytest.mark.parametrize("to", [[], ["--to", "dino-pth"]])
def test_a_folder_that_is_not_writable_is_an_error(capsys, weights, tmp_path, folder, to):
    (tmp_path / "sealed").mkdir(mode=0o500)
    if folder == "sealed" and os.access(tmp_path / "sealed", os.W_OK):
        pytest.skip("this user may write everywhere")  # but not to the kernel's folders
    if not Path(tmp_path, folder).is_dir():
        pytest.skip(f"no {folder} here")
    out = tmp_path / folder / ("m.pth" if to else "m.onnx")
    code, _, stderr = outcome(capsys, weights, "-o", out, *to)
    assert code == 1 and stderr.startswith("dino-export: error: cannot write to")


@pytest.mark.parametrize("to", [["--to", "timm"], []])
def test_one_process_at_a_time_writes_an_export(capsys, weights, tmp_path, to):
    out = tmp_path / "model.pt2"
    with hold_output(out):
        code, _, error = outcome(capsys, weights, "-o", out, *to)
    assert code == 1 and "already writes to" in error
    assert not list(tmp_path.iterdir())


def test_what_a_killed_export_left_goes_and_a_strangers_stays(capsys, weights, tmp_path):
    (tmp_path / ".timm.7.dino-tmp-folder").mkdir()
    (tmp_path / ".timm.tmp").mkdir()
    assert outcome(capsys, weights, "-o", tmp_path / "timm", "--to", "timm")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".timm.tmp", "timm"]


def test_a_file_is_no_folder(capsys, weights):
    code, _, stderr = outcome(capsys, weights, "-o", weights / "m.onnx")
    assert code == 1 and "to write 'm.onnx' to; create it first" in stderr


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("folder", [], "is a folder; name a file"),
        ("folder", ["--to", "dino-pth"], "is a folder; name a file"),
        ("folder", ["--to", "hf"], "exists already"),
        ("model.onnx", ["--to", "dino-pth"], "must end in '.pth'"),
    ],
)
def test_a_bad_output_is_noticed_before_weights_load(capsys, tmp_path, name, to, message):
    (tmp_path / "folder").mkdir()
    code, _, stderr = outcome(capsys, "no/such/weights", "-o", tmp_path / name, *to)
    assert code in (1, 2) and message in stderr


def test_help_needs_neither_torch_nor_onnx():
    program = (
        "import sys; from dino_export.cli import main; main(['--help']); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'onnx', 'onnxruntime')))"
    )
    paths = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0 and "--to" in done.stdout
