"""Patch tokens as colours, and patches like a chosen one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from dino_infer.attention.grids import whole_image
from dino_infer.attention.patches import (
    foreground,
    otsu_threshold,
    patch_pca,
    patch_similarity,
    patch_tokens,
)
from dino_infer.errors import CheckpointError
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone

TOLERANCE = 1e-5  # float32 results of sums in float64


def tokens_of(count=3, seed=0, dim=16):
    """Arrays of unlike sizes whose spread differs by direction."""
    rng = np.random.default_rng(seed)
    spread = np.diag(np.linspace(3, 0.5, dim))
    turned = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return [
        (rng.normal(size=(4 + i, 6, dim)) @ spread @ turned + 2).astype(np.float32)
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def look():
    torch.manual_seed(0)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32).eval()
    preprocess = whole_image(Preprocess(size=32), size=64, patch_size=8)
    return {"backbone": backbone, "preprocess": preprocess}


@pytest.fixture(scope="module")
def photo():
    from skimage import data

    return data.chelsea()


def test_tokens_of_a_photo_lie_on_its_grid(photo, look):
    patches = patch_tokens(photo, **look)
    assert patches.tokens.shape == (8, 12, 128) and patches.picture.shape == (64, 96, 3)
    with torch.inference_mode():
        expected = look["backbone"].tokens(look["preprocess"](photo)[None]).patches[0]
    assert np.array_equal(patches.tokens[2, 5], expected[2 * 12 + 5].numpy())


def test_a_convnet_has_no_patch_tokens(photo):
    with pytest.raises(CheckpointError, match="needs a Vision Transformer"):
        patch_tokens(photo, backbone=build_backbone("resnet18").eval(), preprocess=Preprocess())


def test_the_basis_is_that_of_a_singular_value_decomposition():
    arrays = tokens_of()
    basis = patch_pca(arrays, components=3)
    rows = np.concatenate([array.reshape(-1, 16) for array in arrays]).astype(np.float64)
    _, lengths, vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    variances = lengths**2 / len(rows)
    assert np.allclose(np.abs((basis.components * vectors[:3]).sum(axis=1)), 1, atol=TOLERANCE)
    assert np.allclose(basis.variances, variances[:3], rtol=TOLERANCE)
    assert np.allclose(basis.explained, variances[:3] / variances.sum(), rtol=TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_the_largest_entry_of_a_component_is_positive(seed):
    components = patch_pca(tokens_of(seed=seed)).components
    assert (np.take_along_axis(components, abs(components).argmax(1)[:, None], 1) > 0).all()


def test_the_order_of_the_images_does_not_change_the_colours():
    arrays = tokens_of()
    there, back = patch_pca(arrays), patch_pca(arrays[::-1])
    assert np.allclose(there.components, back.components, atol=TOLERANCE)


def test_images_are_streamed_and_a_new_one_is_measured_in_their_basis():
    *known, new = tokens_of(4)
    basis = patch_pca(iter(known))
    scores = basis.scores(new)
    assert scores.shape == (*new.shape[:2], 3)
    assert np.allclose(scores[1, 2], basis.components @ (new[1, 2] - basis.mean), atol=TOLERANCE)
    everything = np.concatenate([basis.scores(array).reshape(-1, 3) for array in known])
    assert np.allclose(everything.mean(axis=0), 0, atol=TOLERANCE)
    assert np.allclose(everything.var(axis=0), basis.variances, rtol=1e-4)


def test_too_few_patches_for_the_components_are_named():
    with pytest.raises(ValueError, match=r"\[1, 2\] for 2 patches of 16 numbers, got 3"):
        patch_pca([tokens_of()[0][0, :2]])
    with pytest.raises(ValueError, match="for 0 patches"):
        patch_pca([])


def test_otsu_splits_two_groups_between_them():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0, 0.1, 300), rng.normal(2, 0.1, 100)
    threshold = otsu_threshold(rng.permutation(np.concatenate([low, high])))
    assert threshold == low.max()
    assert otsu_threshold(np.full(5, 3.0)) == otsu_threshold(np.array([3.0])) == 3


def test_the_subject_is_the_side_that_the_frame_avoids():
    subject = np.zeros((6, 8))
    subject[2:4, 2:6] = 1
    for sign in (1, -1):
        split = foreground([sign * subject, sign * subject[:, 1:]])
        assert split.above == (sign == 1)
        assert np.array_equal(split.mask(sign * subject), subject > 0)
    by_sign = foreground([subject - 0.9], threshold=0)
    assert by_sign.threshold == 0 and by_sign.mask(subject - 0.9).sum() == 8
    with pytest.raises(ValueError, match="at least one image"):
        foreground([])


def test_similarity_is_the_cosine_and_a_patch_is_most_like_itself():
    tokens = tokens_of()[0]
    similarity = patch_similarity(tokens[1, 2], tokens)
    a, b = tokens[1, 2].astype(np.float64), tokens[3, 5].astype(np.float64)
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert similarity[3, 5] == pytest.approx(expected, abs=TOLERANCE)
    assert similarity[1, 2] == pytest.approx(1, abs=TOLERANCE)
    assert similarity.argmax() == 1 * similarity.shape[1] + 2


def test_the_same_thing_is_found_in_another_image():
    here, there = tokens_of(2)
    there[3, 4] = 2 * here[0, 1]
    similarity = patch_similarity(here[0, 1], there)
    assert similarity.shape == there.shape[:2]
    assert divmod(int(similarity.argmax()), similarity.shape[1]) == (3, 4)


def test_a_patch_of_zeros_is_like_nothing_and_gives_no_warning():
    tokens = np.zeros((2, 2, 4), dtype=np.float32)
    assert not patch_similarity(tokens[0, 0], tokens).any()
