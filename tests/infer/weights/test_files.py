"""Files that cannot be used as weights are refused: one clear line, and nothing of them runs."""

import argparse
import os

import pytest
import torch

from dino_infer.errors import CheckpointError
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import load_backbone, save_checkpoint, weights_sha256
from dino_infer.weights.info import CheckpointInfo
from tests.infer.weights.foreign_weights import saved

INFO = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("vit_micro", patch_size=8, image_size=32).eval()


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    target = tmp_path / "was-here"

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {target}",)

    for legacy in (False, True):
        path = tmp_path / "evil.pth"
        torch.save(
            {"teacher": {"a": torch.ones(1)}, "args": Payload()},
            path,
            _use_new_zipfile_serialization=not legacy,
        )
        with pytest.raises(CheckpointError, match="refused: it holds 'posix.system'"):
            load_backbone(path)
        assert not target.exists()


def test_a_namespace_cannot_smuggle_code(tmp_path):
    target = tmp_path / "was-here"

    class Payload:
        def __reduce__(self):
            return exec, (f"open({str(target)!r}, 'w')",)

    path = saved(tmp_path / "evil.pth", {"args": argparse.Namespace(lr=Payload())})
    with pytest.raises(CheckpointError, match="refused"):
        load_backbone(path)
    assert not target.exists()


@pytest.mark.parametrize("layout", ["safetensors", "pth", "legacy"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_a_file_cut_short_is_one_clear_line(tmp_path, backbone, layout, share):
    path = tmp_path / "weights"
    if layout == "safetensors":
        save_checkpoint(path, backbone, INFO)
    else:
        new = layout == "pth"
        torch.save(backbone.network.state_dict(), path, _use_new_zipfile_serialization=new)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="damaged or cut short") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty: copy or download it again"),
        (b"hello", "is no weights file: expected safetensors or a PyTorch .pth, but it starts"),
        (b"<!DOCTYPE html><html>", "is a web page, what a failed download leaves"),
        (b"<html><body>404", "is a web page, what a failed download leaves"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS .* `git lfs pull`"),
    ],
)
def test_a_file_that_holds_no_weights_says_what_it_is(tmp_path, data, message):
    path = tmp_path / "page.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        load_backbone(path)


def test_an_exported_network_says_where_it_can_be_used(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"anything")
    with pytest.raises(
        CheckpointError, match="can only embed: pass it to dino-embed --engine onnx"
    ):
        load_backbone(tmp_path / "model.onnx")


def test_prefixes_of_wrapped_networks_are_removed(tmp_path, backbone):
    for prefix in ("module.", "module.module.", "_orig_mod.", "module._orig_mod."):
        tensors = backbone.network.state_dict()
        state = {prefix + name: tensor for name, tensor in tensors.items()}
        path = saved(tmp_path / "wrapped.pth", {"state_dict": state})
        assert weights_sha256(load_backbone(path)[0]) == weights_sha256(backbone)


def test_missing_weights_say_what_can_be_given(tmp_path):
    with pytest.raises(CheckpointError, match="no weights at .*timm:NAME"):
        load_backbone(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint.safetensors .* and no model.s"):
        load_backbone(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no snapshots/step"):
        load_backbone(tmp_path, checkpoint_key="student")


def test_asking_for_a_student_that_is_not_there_says_what_is(tmp_path, backbone):
    save_checkpoint(tmp_path / "b.safetensors", backbone, INFO)
    with pytest.raises(
        CheckpointError,
        match="no 'student' weights; it holds one network .*leave out `checkpoint_key`$",
    ):
        load_backbone(tmp_path / "b.safetensors", checkpoint_key="student")
    path = saved(tmp_path / "s.pth", {"student": backbone.network.state_dict(), "epoch": 1})
    with pytest.raises(
        CheckpointError, match="no 'teacher' weights; pass `checkpoint_key` as one of 'student'$"
    ):
        load_backbone(path)
    with pytest.raises(CheckpointError, match="no 'mentor' weights; it holds one network"):
        load_backbone(tmp_path / "b.safetensors", checkpoint_key="mentor")
