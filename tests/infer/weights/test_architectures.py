"""Shapes of tensors tell the architecture."""

import pytest
import torch

from dino_infer.networks.build import build_backbone
from dino_infer.weights.architectures import inferred_info
from dino_infer.weights.checkpoints import load_backbone
from tests.infer.weights.foreign_weights import same_weights, saved


@pytest.mark.parametrize("small_stem", [False, True])
def test_a_torchvision_resnet50_is_recognised(tmp_path, small_stem):
    resnet = build_backbone("resnet50", small_stem=small_stem).eval()
    state = resnet.network.state_dict()
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 2048), torch.zeros(1000)
    loaded, info = load_backbone(saved(tmp_path / "resnet50.pth", state))
    assert same_weights(loaded, resnet)
    assert (info.arch, info.patch_size, info.small_stem) == ("resnet50", 32, small_stem)


@pytest.mark.parametrize("arch", ["vit_tiny", "vit_small", "vit_base"])
@pytest.mark.parametrize("patch_size", [8, 16])
def test_shapes_tell_the_published_architectures(arch, patch_size):
    with torch.device("meta"):
        state = build_backbone(arch, patch_size=patch_size).network.state_dict()
    info = inferred_info(state)
    assert (info.arch, info.patch_size, info.image_size) == (arch, patch_size, 224)
