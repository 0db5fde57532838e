"""Weights that the tests of this folder share."""

import pytest
import torch

from dino_infer.networks.build import build_backbone


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_backbone("vit_micro", patch_size=8, image_size=32).eval()
