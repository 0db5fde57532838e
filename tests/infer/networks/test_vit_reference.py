"""The ViT equals the original's numbers at every input size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dino_infer.attention.maps import mass_mask
from dino_infer.networks.build import vision_transformer

REFERENCE = np.load(Path(__file__).parents[2] / "reference" / "vit_forward.npz")
CASES = ["case0", "case1", "case2", "case3"]
TOLERANCE = 1e-5  # float32 sums in another order; the values are of order 1


@pytest.fixture(scope="module")
def backbone():
    made = vision_transformer(embed_dim=48, depth=2, num_heads=3, patch_size=8, image_size=32)
    weights = {
        name.removeprefix("weights/"): torch.from_numpy(REFERENCE[name])
        for name in REFERENCE.files
        if name.startswith("weights/")
    }
    made.network.load_state_dict(weights)
    return made.eval()


def arrays(case, *names):
    return [torch.from_numpy(REFERENCE[f"{case}/{name}"]) for name in names]


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_the_cls_feature_equals_the_original(backbone, case):
    images, expected = arrays(case, "input", "cls")
    torch.testing.assert_close(backbone(images), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_all_tokens_equal_the_original(backbone, case):
    images, expected = arrays(case, "input", "tokens_last")
    tokens = backbone.tokens(images)
    got = torch.cat([tokens.cls[:, None], tokens.patches], dim=1)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
    assert tokens.grid == (images.shape[2] // 8, images.shape[3] // 8)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_cls_attention_equals_the_original(backbone, case):
    images, expected = arrays(case, "input", "cls_attention")
    got = backbone.cls_attention(images)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_masks_of_60_percent_of_the_mass_are_those_of_the_original(backbone, case):
    images, expected = arrays(case, "input", "mask_mass60")
    assert torch.equal(mass_mask(backbone.cls_attention(images)[0], mass=0.6), expected)
