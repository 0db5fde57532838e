"""Weights that do not fit are refused with what fits."""

import pytest

from dino_infer.errors import CheckpointError
from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.weights.checkpoints import load_backbone
from dino_infer.weights.fitting import load_weights
from tests.infer.weights.foreign_weights import saved


def test_a_wrong_arch_says_what_matched_and_what_to_pass(tmp_path, backbone):
    path = saved(tmp_path / "b.pth", backbone.network.state_dict())
    with pytest.raises(CheckpointError) as caught:
        load_backbone(path, arch="vit_tiny", patch_size=16)
    assert str(caught.value).splitlines() == [
        f"'{path}' does not fit 'vit_tiny' with patch size 16:",
        "  0 tensors matched,",
        "  72 missing (blocks.6.norm1.weight, blocks.6.norm1.bias, blocks.6.attn.qkv.weight, ...),",
        "  0 unexpected,",
        "  78 of another shape (cls_token (1, 1, 128) instead of (1, 1, 192), "
        "pos_embed (1, 17, 128) instead of (1, 5, 192), patch_embed.proj.weight (128, 3, 8, 8) "
        "instead of (192, 3, 16, 16), ...);",
        "the weights look like vit_micro/8 at 32 px: pass `arch='vit_micro'` and `patch_size=8`",
    ]


def test_a_missing_tensor_and_an_unexpected_one_are_named(tmp_path, backbone):
    state = backbone.network.state_dict()
    state["norm.gain"] = state.pop("norm.weight")
    with pytest.raises(CheckpointError) as caught:
        load_backbone(saved(tmp_path / "b.pth", state))
    assert "1 missing (norm.weight),\n  1 unexpected (norm.gain),\n" in str(caught.value)
    assert str(caught.value).endswith("get another copy of the weights")


def test_positions_for_another_image_size_are_told_apart(backbone):
    larger = build_backbone("vit_micro", patch_size=8, image_size=64)
    with pytest.raises(CheckpointError, match="positions at 32 px, the network at 64 px"):
        load_weights(larger, backbone.network.state_dict(), source="b.pth")


def test_a_wrong_arch_for_a_network_without_a_name_is_to_be_left_out(tmp_path):
    shape = ViTShape(embed_dim=64, depth=2, num_heads=1, layer_scale=True)
    network = build_backbone("vit", shape=shape, patch_size=8, image_size=32).network
    path = saved(tmp_path / "b.pth", network.state_dict())
    with pytest.raises(CheckpointError, match="pass neither `arch` nor `patch_size`"):
        load_backbone(path, arch="vit_micro")
