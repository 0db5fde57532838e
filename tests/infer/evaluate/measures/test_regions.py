"""Overlap, accuracy, F-measure and localisation equal plain counts, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import accuracy_score, fbeta_score, jaccard_score

from dino_infer.evaluate.measures.regions import (
    THRESHOLDS,
    box_overlaps,
    f_measures,
    intersection_over_union,
    is_located,
    located_share,
    pixel_accuracy,
)

EXACT = 1e-12  # sums of whole numbers, divided once

seeds = st.integers(0, 10_000)


def masks_of(seed):
    """A mask, a truth with and without a pixel, and the pixels that count: at least one."""
    random = np.random.default_rng(seed)
    mask, truth, valid = random.random((3, 5, 7)) < random.random((3, 1, 1))
    truth[2, 3] = valid[2, 3] = True
    return mask, truth, valid


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_masks_are_compared_as_scikit_learn_compares_them(seed):
    mask, truth, valid = masks_of(seed)
    for counted in (None, valid):
        pair = [one.ravel() if counted is None else one[counted] for one in (truth, mask)]
        iou, accuracy = (
            measure(mask, truth, valid=counted)
            for measure in (intersection_over_union, pixel_accuracy)
        )
        assert iou == pytest.approx(jaccard_score(*pair, zero_division=0), abs=EXACT)
        assert accuracy == pytest.approx(accuracy_score(*pair), abs=EXACT)
        measures = f_measures(mask, truth, valid=counted)
        expected = fbeta_score(*pair, beta=0.3**0.5, zero_division=0)
        assert measures == pytest.approx(np.full(255, expected), abs=EXACT)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_the_f_measure_of_scores_is_that_of_each_threshold(seed):
    _, truth, _ = masks_of(seed)
    # On thresholds, between them, and at both ends.
    scores = np.random.default_rng(seed).integers(0, 511, truth.shape) / 510
    expected = [
        fbeta_score(truth.ravel(), (scores > least).ravel(), beta=0.3**0.5, zero_division=0)
        for least in THRESHOLDS[::23]
    ]
    assert f_measures(scores, truth)[::23] == pytest.approx(np.array(expected), abs=EXACT)


def test_empty_masks_agree_and_nothing_found_is_no_error_of_precision():
    empty, full = np.zeros((2, 3), dtype=bool), np.ones((2, 3), dtype=bool)
    assert intersection_over_union(empty, empty) == pixel_accuracy(empty, empty) == 1
    assert intersection_over_union(empty, full) == intersection_over_union(full, empty) == 0
    assert f_measures(empty, full).max() == 0 and f_measures(full, full).min() == 1
    assert f_measures(empty, empty).min() == 1


def drawn(box):
    mask = np.zeros((12, 12), dtype=bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = True
    return mask


corners = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)


@settings(max_examples=100, deadline=None)
@given(box=corners, truths=st.lists(corners, min_size=1, max_size=3))
def test_boxes_overlap_as_the_masks_that_they_draw(box, truths):
    got = box_overlaps(np.array([box], float), np.array(truths, float))[0]
    for truth, overlap in zip(truths, got, strict=True):
        union = (drawn(box) | drawn(truth)).sum()
        expected = (drawn(box) & drawn(truth)).sum() / union if union else 0
        assert overlap == pytest.approx(expected, abs=EXACT)


def test_a_box_is_located_from_half_an_overlap_on():
    truths = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], float)
    half, less = np.array([[0, 0, 10, 5]], float), np.array([[0, 0, 10, 4.9]])
    assert is_located(half, truths) and not is_located(less, truths)
    assert located_share(half, truths) == 0.5 and located_share(less, truths) == 0
    both = np.concatenate([truths[1:], truths[:1]])
    assert located_share(both, truths) == 1
    assert not is_located(np.zeros((0, 4)), truths) and located_share(np.zeros((0, 4)), truths) == 0
