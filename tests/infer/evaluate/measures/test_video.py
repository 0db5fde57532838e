"""J and F against vos-benchmark, which holds the original's code, and against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from skimage.morphology import disk
from vos_benchmark.evaluator import Evaluator

from dino_infer.evaluate.measures.video import (
    boundary_accuracy,
    course,
    dilated,
    outline,
    region_similarity,
)

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 30))


@st.composite
def pairs(draw):
    """Two masks of a shape: noise, rectangles, or empty ones."""
    shape = draw(SHAPES)
    masks = []
    for _ in range(2):
        mask = np.zeros(shape, np.bool_)
        kind = draw(st.sampled_from(["noise", "rectangle", "empty", "full"]))
        if kind == "noise":
            mask = draw(arrays(np.bool_, shape))
        elif kind == "full":
            mask[:] = True
        elif kind == "rectangle":
            top, left = (draw(st.integers(0, side - 1)) for side in shape)
            bottom, right = (
                draw(st.integers(top + 1, shape[0])),
                draw(st.integers(left + 1, shape[1])),
            )
            mask[top:bottom, left:right] = True
        masks.append(mask)
    return masks


def oracle(truth, found, boundary=0.008):
    """J and F of one object in one frame, from 0 to 1."""
    evaluator = Evaluator(boundary=boundary)
    evaluator.objects_in_gt.add(1)
    evaluator.feed_frame(found.astype(np.uint8), truth.astype(np.uint8))
    j, f = evaluator.conclude()
    return j[1] / 100, f[1] / 100


@settings(deadline=None, max_examples=300)
@given(masks=pairs(), boundary=st.sampled_from([0.008, 0.05, 0.2]))
def test_j_and_f_are_those_of_vos_benchmark(masks, boundary):
    truth, found = masks
    j, f = oracle(truth, found, boundary)
    assert region_similarity(truth, found) == pytest.approx(j, abs=1e-12)
    assert boundary_accuracy(truth, found, tolerance=boundary) == pytest.approx(f, abs=1e-12)


def test_two_discs_three_pixels_apart_measure_as_in_vos_benchmark_at_the_size_of_davis():
    y, x = np.mgrid[:480, :854]
    truth = (y - 240) ** 2 + (x - 400) ** 2 < 90**2
    found = (y - 243) ** 2 + (x - 412) ** 2 < 90**2
    j, f = oracle(truth, found)
    assert region_similarity(truth, found) == pytest.approx(j, abs=1e-12)
    assert boundary_accuracy(truth, found) == pytest.approx(f, abs=1e-12)
    assert 0.2 < f < 0.8


@settings(deadline=None, max_examples=40)
@given(mask=arrays(np.bool_, SHAPES), radius=st.integers(1, 9))
def test_dilation_reaches_the_disk_around_each_pixel_and_no_further(mask, radius):
    expected = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        expected |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    np.testing.assert_array_equal(dilated(mask, radius), expected)


def test_one_pixel_grows_into_the_disk_of_skimage():
    mask = np.zeros((15, 15), np.bool_)
    mask[7, 7] = True
    np.testing.assert_array_equal(dilated(mask, 7), disk(7).astype(bool))


def test_an_object_that_fills_the_frame_has_no_outline():
    assert not outline(np.ones((5, 7), np.bool_)).any()


def test_both_empty_is_right_and_one_empty_is_wrong():
    empty, some = np.zeros((4, 4), np.bool_), np.eye(4, dtype=np.bool_)
    assert (region_similarity(empty, empty), boundary_accuracy(empty, empty)) == (1, 1)
    for pair in ((empty, some), (some, empty)):
        assert (region_similarity(*pair), boundary_accuracy(*pair)) == (0, 0)


def test_void_pixels_do_not_count():
    truth, found = np.zeros((2, 6, 8), np.bool_)
    truth[:, :4], found[:, :6] = True, True
    void = np.zeros((6, 8), np.bool_)
    void[:, 4:] = True
    assert region_similarity(truth, found) == pytest.approx(4 / 6)
    assert region_similarity(truth, found, void=void) == 1
    assert boundary_accuracy(truth, found) < boundary_accuracy(truth, found, void=void) == 1


def plain_course(values):
    """Mean, recall and decay as sums over the four parts of the frames."""
    count = len(values)
    bounds = [math.floor(1 + (count - 1) * i / 4 + 0.5 + 1e-9) - 1 for i in range(5)]
    first, last = values[bounds[0] : bounds[1] + 1], values[bounds[3] : bounds[4] + 1]
    mean = sum(values) / count
    recall = sum(value > 0.5 for value in values) / count
    return mean, recall, sum(first) / len(first) - sum(last) / len(last)


@given(count=st.sampled_from([1, 2, 3, 4, 5, 38, 66, 80, 300, 1000]), seed=st.integers(0, 20))
def test_recall_and_decay_are_those_of_davis_for_any_number_of_frames(count, seed):
    values = np.random.default_rng(seed).random(count).tolist()
    assert tuple(course(values)) == pytest.approx(plain_course(values), abs=1e-12)


def test_a_measure_that_falls_decays():
    found = course([1.0] * 10 + [0.0] * 10)
    assert found == pytest.approx((0.5, 0.5, 1.0))


def test_no_frame_is_refused():
    with pytest.raises(ValueError, match="at least one frame"):
        course([])
