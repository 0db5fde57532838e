import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import jaccard_score, precision_score, recall_score

from dino_infer.attention.maps import upsampled
from dino_infer.attention.views import View, view_of
from dino_infer.evaluate.data.mask_files import VOID
from dino_infer.evaluate.measures.overlaps import (
    centred_ellipse,
    counts,
    overlaps,
    patch_of_pixels,
)
from dino_infer.images.preprocess import Preprocess


def view(rows, columns, height, width):
    return View(rows, columns, 0.0, 0.0, width / columns, height / rows)


@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 999),
)
def test_counts_by_patches_give_the_jaccard_index_of_scikit_learn_on_pixels(size, grid, seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice([VOID, 0, 3, 7], size=size).astype(np.int32)
    if not (labels > 0).any():
        labels[0, 0] = 3
    masks = rng.random((4, *grid)) < 0.5
    parts = patch_of_pixels(view(*grid, *size), *size)
    truth = counts(labels, parts, parts_number=grid[0] * grid[1])
    found = overlaps(masks.reshape(4, -1), truth)
    valid = labels != VOID
    for k in range(4):
        pixels = masks[k].ravel()[parts][valid]
        expected = [
            jaccard_score(labels[valid] == number, pixels, zero_division=0)
            for number in np.unique(labels[labels > 0])
        ]
        np.testing.assert_allclose(found.iou[k], expected, rtol=1e-12)
        on_any = labels[valid] > 0
        precision = precision_score(on_any, pixels, zero_division=0)
        recall = recall_score(on_any, pixels, zero_division=0)
        np.testing.assert_allclose(found.precision[k], precision, rtol=1e-12)
        np.testing.assert_allclose(found.recall[k], recall, rtol=1e-12)


def test_void_pixels_count_neither_as_right_nor_as_wrong():
    labels = np.array([[1, VOID, 0, 0]], np.int32)
    truth = counts(labels, np.arange(4)[None], parts_number=4)
    found = overlaps(np.array([[True, True, False, False]]), truth)
    assert (found.iou.item(), found.precision.item(), found.recall.item()) == (1, 1, 1)


def test_patches_are_rectangles_that_fill_the_image():
    parts = patch_of_pixels(view(2, 3, 8, 9), 8, 9)
    np.testing.assert_array_equal(parts, upsampled(np.arange(6).reshape(2, 3), 8, 9))


def test_a_strip_that_the_network_did_not_see_belongs_to_the_last_patches():
    preprocess = Preprocess(size=32, crop="none", patch_size=16)
    seen = view_of(32, 43, preprocess=preprocess, patch_size=16)
    assert (seen.rows, seen.columns) == (2, 2)
    parts = patch_of_pixels(seen, 32, 43)
    np.testing.assert_array_equal(parts[0], [0] * 16 + [1] * 27)


def test_an_image_of_one_pixel_row_has_patches_without_pixels():
    parts = patch_of_pixels(view(4, 2, 1, 4), 1, 4)
    truth = counts(np.array([[1, 1, 0, 0]], np.int32), parts, parts_number=8)
    assert truth.valid.sum() == 4
    assert overlaps(np.ones((1, 8), np.bool_), truth).iou.item() == 0.5


def test_more_than_a_thousand_objects_are_counted():
    labels = np.arange(1, 1601, dtype=np.int32).reshape(40, 40)
    truth = counts(labels, np.zeros((40, 40), np.int64), parts_number=1)
    assert truth.inside.shape == (1600, 1)
    assert overlaps(np.ones((1, 1), np.bool_), truth).iou.mean() == pytest.approx(1 / 1600)


def test_the_ellipse_takes_a_share_of_both_sides():
    ellipse = centred_ellipse(100, 200, share=0.6)
    assert ellipse.any(axis=1).sum() == 60
    assert ellipse.any(axis=0).sum() == 120
    assert ellipse.mean() == pytest.approx(np.pi / 4 * 0.36, rel=0.01)
    assert centred_ellipse(1, 1, share=0.6).all()
