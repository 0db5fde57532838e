"""Backbones say what they are and what they do not have."""

import pytest
import torch

from dino_infer.networks.build import (
    build_backbone,
)
from tests.infer.networks.small import small_vit


@pytest.mark.parametrize("arch", ["resnet50", "xcit_nano_12_p16_224"])
def test_networks_without_a_grid_of_patches_say_so(arch: str):
    backbone = build_backbone(arch)
    assert not backbone.has_attention
    images = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=f"must come from a Vision Transformer; '{arch}'"):
        backbone.cls_attention(images)
    with pytest.raises(ValueError, match="patch tokens must come from a Vision Tr"):
        backbone.tokens(images)
    with pytest.raises(ValueError, match="keys of patches must come from a Vision Tr"):
        backbone.keys(images)


def test_an_image_below_one_patch_is_refused_with_its_size():
    with pytest.raises(ValueError, match="at least one patch of 4 px, got 3 x 16"):
        small_vit()(torch.randn(1, 3, 3, 16))


def test_a_backbone_says_in_one_line_what_it_is():
    assert repr(small_vit()) == "ViTBackbone('vit', patch_size=4, embed_dim=24, 0.0 M parameters)"
