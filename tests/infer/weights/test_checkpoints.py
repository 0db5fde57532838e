"""Weights from every layout we read, and clear refusals of all others."""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
from pathlib import Path

import pytest
import torch

from dino_infer.errors import CheckpointError
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import load_backbone, read_training_weights, save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from tests.infer.weights.foreign_weights import same_weights, saved

INFO = CheckpointInfo(
    arch="vit_micro",
    patch_size=8,
    image_size=32,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.1),
    recipe="tiny_cpu",
    step=1234,
    epoch=7,
    data_fingerprint="abc",
    code_version="0.1.0",
)


@pytest.fixture(scope="module")
def other():
    torch.manual_seed(1)
    return build_backbone("vit_micro", patch_size=8, image_size=32).eval()


def head_state():
    return {
        "mlp.0.weight": torch.randn(16, 128),
        "mlp.0.bias": torch.zeros(16),
        "last_layer.weight_g": torch.ones(8, 1),
        "last_layer.weight_v": torch.randn(8, 16),
    }


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def full_checkpoint(student, teacher):
    """The training state that the original writes: DDP's prefix on the student alone."""

    def network(backbone, prefix):
        return prefixed(backbone.network.state_dict(), f"{prefix}backbone.") | prefixed(
            head_state(), f"{prefix}head."
        )

    return {
        "student": network(student, "module."),
        "teacher": network(teacher, ""),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": []},
        "epoch": 100,
        "args": argparse.Namespace(
            arch="vit_small",
            global_crops_scale=(0.4, 1.0),
            use_fp16=True,
            output_dir=pathlib.PosixPath("/checkpoint/user/dino"),
        ),
        "dino_loss": {"center": torch.zeros(1, 8)},
        "fp16_scaler": {"scale": 65536.0, "growth_interval": 2000, "_growth_tracker": 7},
    }


def test_a_saved_checkpoint_loads_as_it_was(tmp_path, backbone):
    save_checkpoint(tmp_path / "b.safetensors", backbone, INFO)
    loaded, info = load_backbone(tmp_path / "b.safetensors")
    images = torch.randn(2, 3, 40, 24)
    assert info == INFO
    assert not loaded.training
    assert torch.equal(loaded(images), backbone(images))


def test_two_saves_give_the_same_bytes(tmp_path, backbone):
    digests = set()
    for name in ("a.safetensors", "b.safetensors"):
        save_checkpoint(tmp_path / name, backbone, dataclasses.replace(INFO))
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_one_flipped_bit_in_the_weights_is_found(tmp_path, backbone):
    save_checkpoint(tmp_path / "b.safetensors", backbone, INFO)
    data = bytearray((tmp_path / "b.safetensors").read_bytes())
    data[-1000] ^= 1
    (tmp_path / "b.safetensors").write_bytes(data)
    for load in (load_backbone, read_training_weights):
        with pytest.raises(CheckpointError, match="is damaged: its weights are not those that we"):
            load(tmp_path / "b.safetensors")


def test_tensors_in_the_file_carry_the_original_names(tmp_path, backbone):
    from safetensors import safe_open

    save_checkpoint(tmp_path / "b.safetensors", backbone, INFO)
    with safe_open(tmp_path / "b.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert list(file.metadata()) == ["dino"]
        metadata = json.loads(file.metadata()["dino"])
    assert list(metadata) == sorted(metadata)
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "norm.bias"} <= names
    assert "blocks.5.attn.qkv.weight" in names


def test_a_failed_save_leaves_the_older_file(tmp_path, backbone):
    path = tmp_path / "b.safetensors"
    path.mkdir()
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        save_checkpoint(path, backbone, INFO)
    assert os.listdir(tmp_path) == ["b.safetensors"]


def test_a_run_folder_gives_its_checkpoint_and_its_newest_student(tmp_path, backbone, other):
    save_checkpoint(tmp_path / "checkpoint.safetensors", backbone, INFO)
    (tmp_path / "snapshots").mkdir()
    for step, student in ((10, backbone), (20, other)):
        networks = {
            "student": prefixed(student.network.state_dict(), "backbone.network."),
            "teacher": prefixed(backbone.network.state_dict(), "backbone.network."),
        }
        for network in networks.values():
            network.update(prefixed(head_state(), "head."))
        state = networks | {"step": step, "checkpoint_info": INFO.as_metadata()}
        saved(tmp_path / "snapshots" / f"step-{step:08d}.pt", state)
    teacher, info = load_backbone(tmp_path)
    student, student_info = load_backbone(tmp_path, checkpoint_key="student")
    assert same_weights(teacher, backbone)
    assert same_weights(student, other)
    assert info == student_info == INFO
    snapshot = tmp_path / "snapshots" / "step-00000020.pt"
    assert same_weights(load_backbone(snapshot)[0], backbone)
    assert set(read_training_weights(snapshot)["head"]) == set(head_state())


def test_a_published_backbone_file_tells_its_architecture(tmp_path, backbone):
    path = saved(tmp_path / "pretrain.pth", backbone.network.state_dict())
    loaded, info = load_backbone(path)
    assert same_weights(loaded, backbone)
    assert (info.arch, info.patch_size, info.image_size) == ("vit_micro", 8, 32)
    assert info.mean == (0.485, 0.456, 0.406)
    assert set(read_training_weights(path)) == {"backbone"}


@pytest.mark.parametrize("key", ["teacher", "student"])
def test_a_published_training_state_gives_either_network(tmp_path, backbone, other, key):
    path = saved(tmp_path / "full.pth", full_checkpoint(student=other, teacher=backbone))
    loaded, _ = load_backbone(path, checkpoint_key=key)
    assert same_weights(loaded, backbone if key == "teacher" else other)
    weights = read_training_weights(path, key)
    assert set(weights["backbone"]) == set(backbone.network.state_dict())
    assert set(weights["head"]) == set(head_state())


def test_the_prefix_of_ddp_on_a_batch_norm_teacher_is_removed(tmp_path, backbone):
    content = full_checkpoint(student=backbone, teacher=backbone)
    content["teacher"] = content["student"]
    assert same_weights(load_backbone(saved(tmp_path / "full.pth", content))[0], backbone)


def test_parametrised_weight_norm_gets_the_original_names(tmp_path, backbone):
    content = full_checkpoint(student=backbone, teacher=backbone)
    for i, name in enumerate(("weight_g", "weight_v")):
        value = content["teacher"].pop(f"head.last_layer.{name}")
        content["teacher"][f"head.last_layer.parametrizations.weight.original{i}"] = value
    weights = read_training_weights(saved(tmp_path / "full.pth", content))
    assert set(weights["head"]) == set(head_state())


def test_a_patch_size_of_zero_is_refused_and_does_not_mean_not_given(tmp_path):
    network = build_backbone("vit_micro", patch_size=8, image_size=32)
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    save_checkpoint(tmp_path / "w.safetensors", network, info)
    with pytest.raises(ValueError, match="patch_size must lie in"):
        load_backbone(tmp_path / "w.safetensors", patch_size=0)


def test_weights_of_no_known_shape_ask_for_the_arch(tmp_path):
    path = saved(tmp_path / "odd.pth", {"weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match="pass `arch` as one of vit_micro"):
        load_backbone(path)
    with pytest.raises(CheckpointError, match="(?s)150 missing .* 1 unexpected .weight."):
        load_backbone(path, arch="vit_tiny")


def test_a_newer_format_and_lacking_metadata_are_refused():
    metadata = INFO.as_metadata()
    assert CheckpointInfo.from_metadata(metadata | {"of_a_later_version": 1}) == INFO
    with pytest.raises(CheckpointError, match="format version 2, this package reads up to 1"):
        CheckpointInfo.from_metadata(metadata | {"format_version": 2})
    del metadata["arch"]
    with pytest.raises(CheckpointError, match="metadata lacks arch"):
        CheckpointInfo.from_metadata(metadata)


def test_half_precision_weights_load_as_float32(tmp_path, backbone):
    state = {name: tensor.half() for name, tensor in backbone.network.state_dict().items()}
    loaded, _ = load_backbone(saved(tmp_path / "half.pth", state))
    assert next(loaded.parameters()).dtype == torch.float32


def test_offline_timm_weights_say_what_to_pass_instead(tmp_path):
    import subprocess
    import sys

    code = (
        "from dino_infer.weights.checkpoints import load_backbone\n"
        "try: load_backbone('timm:vit_small_patch16_224.dino')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "TORCH_HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("CheckpointError cannot get 'timm:vit_small_patch16_224.dino' (")
    assert "offline, give a run folder" in done.stdout
