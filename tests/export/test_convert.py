"""Weights as other projects' files: their names, and the same features when they come back."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dino_export.convert import convert_weights, hugging_face_config, timm_config
from dino_export.errors import ExportError
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import load_backbone, weights_sha256
from dino_infer.weights.info import CheckpointInfo
from tests.export.networks import ROTARY, SIZE, small_network
from tests.export.test_layouts import MODEL_TYPES, SHAPES
from tests.infer.weights.foreign_weights import DINOV2_GIANT


@pytest.mark.parametrize("kind", SHAPES)
def test_weights_come_back_from_hugging_face_files(tmp_path, kind):
    backbone, info = small_network(SHAPES[kind])
    assert convert_weights(tmp_path / "hf", backbone, info, to="hf") == 0
    again, found = load_backbone(tmp_path / "hf")
    assert weights_sha256(again) == weights_sha256(backbone)
    assert (found.patch_size, found.mean) == (info.patch_size, info.mean)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["layer_norm_eps"] == (1e-5 if kind == "dinov3" else 1e-6)
    assert config["model_type"] == MODEL_TYPES[kind]


def test_a_gated_mlp_gets_the_whole_number_that_transformers_wants():
    _, info = small_network(DINOV2_GIANT)
    config = hugging_face_config(DINOV2_GIANT, info)
    assert config["mlp_ratio"] == 2  # 2/3 of 128, rounded up to 88
    assert isinstance(config["mlp_ratio"], int)


@pytest.mark.parametrize("to", ["dino-pth", "safetensors"])
@pytest.mark.parametrize("arch", ["vit_micro", "resnet50"])
def test_files_come_back_bit_for_bit(tmp_path, arch, to):
    torch.manual_seed(0)
    backbone = build_backbone(arch, patch_size=8, image_size=SIZE).eval()
    info = CheckpointInfo(arch=arch, patch_size=backbone.patch_size, image_size=SIZE)
    path = tmp_path / ("weights.pth" if to == "dino-pth" else "weights.safetensors")
    assert convert_weights(path, backbone, info, to=to) == 0
    again, _ = load_backbone(path)
    assert weights_sha256(again) == weights_sha256(backbone)


@pytest.mark.parametrize("arch", ["vit_micro", "vit_small_patch14_reg4_dinov2", "resnet50"])
def test_timm_makes_the_same_network_of_a_folder(tmp_path, arch):
    import timm

    torch.manual_seed(0)
    backbone = build_backbone(arch, patch_size=8, image_size=56).eval()
    info = CheckpointInfo(
        arch=arch, patch_size=backbone.patch_size, image_size=56, mean=(0.4, 0.5, 0.6)
    )
    convert_weights(tmp_path / "timm", backbone, info, to="timm")
    network = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    images = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        torch.testing.assert_close(network(images), backbone(images), rtol=0, atol=1e-5)
    assert network.pretrained_cfg["mean"] == [0.4, 0.5, 0.6]


def test_timm_has_no_name_for_every_shape():
    backbone, info = small_network(ROTARY)
    with pytest.raises(
        ExportError, match="timm has no name for .* use `to='hf'` or `to='dino-pth'`"
    ):
        timm_config(backbone, info)


def test_transformers_has_no_class_for_a_convnet_and_nothing_is_left(tmp_path):
    backbone = build_backbone("resnet_micro").eval()
    info = CheckpointInfo(arch="resnet_micro", patch_size=backbone.patch_size, image_size=64)
    with pytest.raises(ExportError, match="transformers has no class for 'resnet_micro'"):
        convert_weights(tmp_path / "hf", backbone, info, to="hf")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_touched(tmp_path):
    backbone, info = small_network()
    (tmp_path / "hf").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        convert_weights(tmp_path / "hf", backbone, info, to="hf")


def test_hidden_folders_of_the_user_stay(tmp_path):
    backbone, info = small_network()
    (tmp_path / ".timm.tmp").mkdir()
    (tmp_path / ".timm.tmp" / "mine").touch()
    convert_weights(tmp_path / "timm", backbone, info, to="timm")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".timm.tmp", "timm"]
    assert (tmp_path / ".timm.tmp" / "mine").exists()


def test_tensors_of_a_file_share_no_memory(tmp_path):
    backbone, info = small_network()
    convert_weights(tmp_path / "hf", backbone, info, to="hf")
    state = load_file(tmp_path / "hf" / "model.safetensors")
    assert sum(t.numel() for t in state.values()) == sum(
        t.numel() for t in backbone.network.state_dict().values()
    )
