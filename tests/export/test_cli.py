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
from dino_infer.backbones import build_backbone
from dino_infer.checkpoints import CheckpointInfo, save_checkpoint
from dino_infer.embed import Embedder
from tests.export.networks import weights_file

ROOT = Path(__file__).parents[2]


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
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "onnx_embed.py", copy, photo, photo],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("2 rows of 64 in ")
    rows, ours = np.load(tmp_path / "model.npy"), Embedder.load(copy, device="cpu")([photo])
    cosine = (rows[0] @ ours[0]) / np.linalg.norm(rows[0]) / np.linalg.norm(ours[0])
    assert cosine > 0.9999  # Pillow and PyTorch round pixels differently


def test_images_of_the_user_are_compared(capsys, weights, tmp_path, image_folder):
    folder = image_folder(count=3)
    out = tmp_path / "model.ts"
    assert outcome(capsys, weights, "-o", out, "--images", folder)[0] == 0


@pytest.mark.parametrize("to", ["hf", "timm", "dino-pth", "safetensors"])
def test_conversions_say_how_far_features_moved(capsys, weights, tmp_path, to):
    out = tmp_path / ("converted.pth" if to == "dino-pth" else "converted.safetensors")
    code, stdout, _ = outcome(capsys, weights, "-o", out, "--to", to)
    assert (code, out.exists()) == (0, True)
    assert stdout == f"{out}: read back, features differ by at most 0.0e+00 of their rms\n"


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
        (["-o", "model.onnx", "--opset", "9"], "opset must lie in"),
        (["-o", "model.pt2", "--precision", "int8"], "'int8' is for ONNX"),
    ],
)
def test_usage_errors_are_one_line(capsys, weights, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = outcome(capsys, weights, *arguments)
    last = stderr.splitlines()[-1]
    assert (code, stdout) == (2, "")
    assert last.startswith("dino-export: error: ") and message in last
    assert not list(tmp_path.iterdir())


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
    assert code == 1 and "cannot tell the architecture" in stderr


def test_a_folder_that_is_missing_is_an_error(capsys, weights, tmp_path):
    code, _, stderr = outcome(capsys, weights, "-o", tmp_path / "no" / "m.onnx")
    assert code == 1 and "to write 'm.onnx' to; create it first" in stderr


def test_a_folder_that_is_not_writable_is_an_error(capsys, weights, tmp_path):
    (tmp_path / "sealed").mkdir(mode=0o500)
    if os.access(tmp_path / "sealed", os.W_OK):
        pytest.skip("this user may write everywhere")
    code, _, stderr = outcome(capsys, weights, "-o", tmp_path / "sealed" / "m.ts")
    assert code == 1 and stderr.startswith("dino-export: error: no permission to write to")


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
