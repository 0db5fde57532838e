"""Attention maps and masks of real photos."""

import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from dino_infer.attention.grids import shown, whole_image
from dino_infer.attention.maps import (
    attention_by_layer,
    attention_maps,
    chosen_maps,
    grid_masks,
    mass_mask,
    rollout_maps,
    upsampled,
)
from dino_infer.errors import CheckpointError
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone

TOLERANCE = 1e-6  # float32 sums in another order
GPU_TOLERANCE = 1e-3  # a GPU may multiply in TF32


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


def test_no_picture_has_no_maps(backbone):
    for look in (attention_maps, attention_by_layer, rollout_maps):
        assert look([], backbone=backbone, preprocess=Preprocess(size=32)) == []


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
    picture = shown(preprocess(photo), preprocess)
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
    big = upsampled(maps, 8, 12)
    assert big.shape == (1, 8, 12)
    assert (big[:, ::4, ::4] == maps).all() and (big[:, 3::4, 3::4] == maps).all()
    odd = upsampled(maps, 5, 7)
    assert odd.shape == (1, 5, 7) and odd[0, 0, 0] == 0 and odd[0, -1, -1] == 5


def test_whole_image_keeps_the_normalisation_of_the_weights():
    preprocess = Preprocess(size=32, mean=(0.1, 0.2, 0.3))
    whole = whole_image(preprocess, size=64, patch_size=8)
    assert (whole.mean, whole.size, whole.crop) == ((0.1, 0.2, 0.3), 64, "none")


@pytest.fixture(scope="module")
def look(backbone):
    preprocess = whole_image(Preprocess(size=32), size=64, patch_size=8)
    return {"backbone": backbone, "preprocess": preprocess}


def test_a_pixel_asks_through_the_patch_that_shows_it(backbone, photo, look):
    maps = attention_maps(photo, query=(200, 100), **look)  # of 451 x 300, on 8 x 12 patches
    assert maps.query == (2, 5)
    pixels = look["preprocess"](photo)[None]
    with torch.inference_mode():
        expected = backbone.patch_attention(pixels, [2 * 12 + 5])[0, :, 0].reshape(4, 8, 12)
    assert np.array_equal(maps.heads, expected.numpy())
    assert not np.allclose(maps.heads, attention_maps(photo, **look).heads)


def test_a_pixel_outside_of_the_image_is_named_with_the_image(photo, look):
    with pytest.raises(ValueError, match=r"'cat.png': the pixel must lie in .* got x = 500, y = 1"):
        attention_maps(photo, query=(500, 1), path="cat.png", **look)


def test_all_layers_come_from_one_forward_pass_and_equal_each_alone(photo, look):
    layers = attention_by_layer(photo, mass=0.3, **look)
    assert len(layers) == 6
    for layer in (0, 3, 5):
        alone = attention_maps(photo, layer=layer, mass=0.3, **look)
        assert np.allclose(layers[layer].heads, alone.heads, atol=TOLERANCE)
        assert np.array_equal(layers[layer].masks, grid_masks(layers[layer].heads, 0.3))


def test_a_rollout_is_one_map_through_all_blocks(backbone, photo, look):
    maps = rollout_maps(photo, **look)
    with torch.inference_mode():
        expected = backbone.attention_rollout(look["preprocess"](photo)[None])
    assert maps.heads.shape == maps.masks.shape == (1, 8, 12)
    assert np.allclose(maps.heads.ravel(), expected.numpy().ravel(), atol=TOLERANCE)


def test_a_choice_of_heads_names_its_maps():
    heads = np.random.default_rng(0).random((3, 2, 4))
    assert np.array_equal(chosen_maps(heads, "mean")["mean"], heads.mean(axis=0))
    assert np.array_equal(chosen_maps(heads, "max")["max"], heads.max(axis=0))
    assert list(chosen_maps(heads, "all")) == [0, 1, 2]
    assert np.array_equal(chosen_maps(heads, 2)[2], heads[2])
    with pytest.raises(ValueError, match="mean, max, all or a number from 0 to 2, got 3"):
        chosen_maps(heads, 3)


def test_a_crop_that_is_no_multiple_of_the_patch_shows_whole_patches_only(backbone, photo):
    maps = attention_maps(photo, backbone=backbone, preprocess=Preprocess(size=30))
    assert maps.picture.shape == (24, 24, 3) and maps.heads.shape == (4, 3, 3)


def test_both_ways_that_the_benchmark_measures_agree():
    path = Path(__file__).parents[3] / "benchmarks" / "attention_memory.py"
    spec = importlib.util.spec_from_file_location("attention_memory", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    ways = benchmark.steps(64, 8, "cpu")
    with torch.inference_mode():
        one, all_of_them = (ways[way]() for way in benchmark.WAYS)
    assert one.shape == (1, 6, 64)
    torch.testing.assert_close(one, all_of_them, rtol=0, atol=TOLERANCE)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_maps(backbone, photo, look):
    on_cpu = attention_maps(photo, **look)
    on_gpu = attention_maps(photo, **(look | {"backbone": copy.deepcopy(backbone).cuda()}))
    assert np.allclose(on_cpu.heads, on_gpu.heads, atol=GPU_TOLERANCE)
