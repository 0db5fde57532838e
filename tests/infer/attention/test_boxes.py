"""Connected parts of masks and the boxes around them."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dino_infer.attention.boxes import components, mask_boxes
from dino_infer.attention.views import View

ROUNDING = 1e-6


def mask_of(*rows):
    return np.array([[letter == "#" for letter in row] for row in rows])


def view_for(mask, **changes):
    rows, columns = mask.shape
    plain = View(rows, columns, left=0, top=0, patch_width=10, patch_height=10)
    return plain._replace(**changes)


def test_a_corner_connects_unless_told_otherwise():
    mask = mask_of("#..#", ".#..", "#..#")
    assert components(mask).max() == 3
    assert components(mask, diagonal=False).max() == 5
    assert components(mask).tolist() == [[1, 0, 0, 2], [0, 1, 0, 0], [1, 0, 0, 3]]


def test_a_ring_is_one_part_and_its_hole_none():
    labels = components(mask_of("####", "#..#", "####"), diagonal=False)
    assert labels.max() == 1 and (labels == 0).sum() == 2


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_parts_are_those_that_a_graph_has(seed, rows, columns):
    import scipy.sparse.csgraph as graph

    mask = np.random.default_rng(seed).random((rows, columns)) < 0.5
    cells = np.argwhere(mask)
    for diagonal in (True, False):
        gap = np.abs(cells[:, None] - cells[None])
        near = gap.max(axis=-1) <= 1 if diagonal else gap.sum(axis=-1) <= 1
        count = graph.connected_components(near)[0] if len(cells) else 0
        labels = components(mask, diagonal=diagonal)
        assert labels.max() == count and ((labels > 0) == mask).all()


def test_boxes_lie_in_the_image_and_the_heaviest_comes_first():
    mask = mask_of("#...", "....", "..##")
    attention = np.where(mask, [[0.1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0.2, 0.3]], 0.05)
    view = view_for(mask, left=5.0, top=1.0, patch_width=20.0)
    first, second = mask_boxes(attention, mask, view)
    assert first[:4] == (45, 21, 85, 31) and second[:4] == (5, 1, 25, 11)
    assert first.mass == pytest.approx(0.5 / attention.sum(), abs=ROUNDING)
    assert second.mass == pytest.approx(0.1 / attention.sum(), abs=ROUNDING)


def test_parts_below_the_least_size_get_no_box():
    mask = mask_of("#...", "....", "..##")
    sizes = [len(mask_boxes(mask * 1.0, mask, view_for(mask), min_patches=n)) for n in (1, 2, 3)]
    assert sizes == [2, 1, 0]


def test_an_empty_mask_has_no_box_and_no_warning():
    mask = np.zeros((3, 4), dtype=bool)
    assert mask_boxes(np.zeros((3, 4)), mask, view_for(mask)) == []


def test_shapes_that_do_not_agree_are_named():
    mask = mask_of("#.", "..")
    with pytest.raises(ValueError, match=r"got \(2, 2\), \(2, 2\) and \(2, 3\)"):
        mask_boxes(mask * 1.0, mask, view_for(mask)._replace(columns=3))
