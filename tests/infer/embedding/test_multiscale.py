"""Whole images by their longer side, and the mean feature over scales."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dino_infer.embedding.engines import TorchEngine
from dino_infer.embedding.multiscale import SCALES, LongerSide, ScaledEngine, scaled_embedder
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone

PATCH = 8


@pytest.fixture
def backbone():
    return build_backbone("vit_micro", patch_size=PATCH, image_size=32).eval()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 50, (64, 32)),
        (50, 100, (32, 64)),
        (30, 20, (30, 20)),
        (1, 900, (8, 64)),
        (1, 1, (8, 8)),
    ],
)
def test_the_longer_side_is_the_size_and_nothing_is_enlarged_but_to_a_patch(
    height, width, expected
):
    preprocess = LongerSide(size=64, least_side=PATCH, exact_decode=True)
    assert preprocess.resized(height, width) == expected
    pixels = preprocess.pixels(np.zeros((height, width, 3), np.uint8))
    assert tuple(pixels.shape[1:]) == expected


def test_a_cache_can_tell_it_from_the_shorter_side():
    shorter = Preprocess(size=64, crop="none").as_metadata()
    assert LongerSide(size=64).as_metadata() != shorter


def test_features_are_the_mean_over_scales_of_images_cut_to_patches(backbone):
    images = torch.randn(2, 3, 45, 37)
    engine = TorchEngine(backbone, feature="cls", device=torch.device("cpu"), precision="fp32")
    expected = torch.zeros(2, backbone.embed_dim)
    for scale in (1.0, 2**-0.5, 0.5):
        seen = images
        if scale != 1:
            seen = F.interpolate(
                images, scale_factor=scale, mode="bilinear", align_corners=False,
                recompute_scale_factor=True,
            )  # fmt: skip
        height, width = seen.shape[-2] // PATCH * PATCH, seen.shape[-1] // PATCH * PATCH
        expected += backbone(seen[..., :height, :width]).detach() / 3
    torch.testing.assert_close(ScaledEngine(engine, SCALES)(images), expected)


def test_a_strip_is_never_smaller_than_a_patch(backbone):
    embedder = scaled_embedder(
        backbone, LongerSide(size=64, least_side=PATCH), scales=SCALES, device="cpu"
    )
    assert np.isfinite(embedder(np.zeros((1, 300, 3), np.uint8))).all()


def test_the_description_has_the_scales(backbone):
    plain, scaled = (
        scaled_embedder(backbone, Preprocess(size=32), scales=scales, device="cpu").description()
        for scales in ((1.0,), SCALES)
    )
    assert plain["scales"] == [1.0] and scaled["scales"] == list(SCALES)
    assert dataclasses.asdict(Preprocess(size=32))["size"] == scaled["preprocess"]["size"]
