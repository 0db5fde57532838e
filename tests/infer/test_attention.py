"""Attention maps and masks of real photos."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_infer import attention
from dino_infer.attention import attention_maps, mass_mask, upsampled, whole_image
from dino_infer.backbones import build_backbone
from dino_infer.errors import CheckpointError
from dino_infer.preprocess import Preprocess


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_backbone("vit_micro", patch_size=8, image_size=32).eval()


@pytest.fixture(scope="module")
def photo():
    from skimage import data

    return data.chelsea()  # 300 x 451


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), patches=st.integers(1, 40), mass=st.floats(0.01, 1))
def test_a_mask_holds_the_mass_with_as_few_patches_as_possible(seed, patches, mass):
    weights = torch.rand(3, patches, generator=torch.Generator().manual_seed(seed)) + 1e-3
    for row, mask in zip(
        weights / weights.sum(1, keepdim=True), mass_mask(weights, mass), strict=True
    ):
        assert row[mask].sum() >= mass - 1e-5
        assert row[mask].sum() - row[mask].min() <= mass + 1e-5
        assert not (~mask).any() or row[~mask].max() <= row[mask].min()


def test_equal_patches_are_dropped_from_the_first():
    assert mass_mask(torch.ones(1, 4), mass=0.5).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("mass", [0.0, -0.5, 1.1])
def test_a_mass_out_of_range_is_named(mass):
    with pytest.raises(ValueError, match=f"mass must lie in .0, 1., got {mass}"):
        mass_mask(torch.ones(1, 4), mass=mass)


def test_maps_fit_the_grid_of_the_picture_that_the_network_saw(backbone, photo):
    preprocess = whole_image(Preprocess(size=32), size=64, patch_size=8)
    maps = attention_maps(photo, backbone=backbone, preprocess=preprocess)
    height, width = maps.picture.shape[:2]
    assert (height, width) == (64, 96)
    assert maps.heads.shape == maps.masks.shape == (4, 8, 12)
    assert (maps.heads > 0).all()
    assert (maps.heads.sum(axis=(1, 2)) < 1).all()
    shares = (maps.heads * maps.masks).sum(axis=(1, 2)) / maps.heads.sum(axis=(1, 2))
    assert (shares >= 0.6 - 1e-5).all()


def test_the_picture_shown_is_the_photo_itself(backbone, photo):
    preprocess = whole_image(Preprocess(size=32), size=300, patch_size=50)
    picture = attention.shown(preprocess(photo), preprocess)
    assert np.array_equal(picture, photo[:, :450])


def test_an_earlier_layer_gives_other_maps(backbone, photo):
    preprocess = whole_image(Preprocess(size=32), size=64, patch_size=8)
    first, last = (
        attention_maps(photo, backbone=backbone, preprocess=preprocess, layer=layer).heads
        for layer in (0, -1)
    )
    assert not np.allclose(first, last)
    with pytest.raises(ValueError, match=r"layer must lie in \[-6, 5\]"):
        attention_maps(photo, backbone=backbone, preprocess=preprocess, layer=6)


def test_a_convnet_is_refused_in_one_clear_line(photo):
    resnet = build_backbone("resnet18").eval()
    with pytest.raises(CheckpointError, match="needs a Vision Transformer, .* 'resnet18'"):
        attention_maps(photo, backbone=resnet, preprocess=Preprocess())


def test_upsampling_repeats_each_patch():
    maps = np.arange(6).reshape(1, 2, 3)
    big = upsampled(maps, 4)
    assert big.shape == (1, 8, 12)
    assert (big[:, ::4, ::4] == maps).all() and (big[:, 3::4, 3::4] == maps).all()


def test_whole_image_keeps_the_normalisation_of_the_weights():
    preprocess = Preprocess(size=32, mean=(0.1, 0.2, 0.3))
    whole = whole_image(preprocess, size=64, patch_size=8)
    assert (whole.mean, whole.size, whole.crop) == ((0.1, 0.2, 0.3), 64, "none")
