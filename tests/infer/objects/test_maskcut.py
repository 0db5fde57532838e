"""MaskCut finds what its paper's equations find with whole matrices."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dino_infer.objects.maskcut import mask_cut
from tests.infer.objects.dense import grids, keys_of, part_around, peak_of, second_of, weights_of


def by_equations(keys, sign, objects=3, tau=0.15, eps=1e-5):
    """Section 3.2 of the paper: cuts, with the keys of patches that are taken set to 0."""
    grid = keys.shape[:2]
    taken, found, last = np.zeros(grid, dtype=bool), [], None
    while len(found) < objects:
        vector = second_of(weights_of(np.where(taken[..., None], 0, keys), tau, eps))
        if vector is None:
            break
        vector = sign * vector
        above = (vector > vector.mean()).reshape(grid)
        if not above.ravel()[peak_of(abs(vector))]:
            vector, above = -vector, ~above
        if sum(int(above[i, j]) for i in (0, -1) for j in (0, -1)) >= 3:
            vector, above = -vector, ~above
        seed = tuple(int(i) for i in np.unravel_index(peak_of(vector), grid))
        mask = part_around(above, seed)
        if found:
            overlap = (mask & last).sum() / (mask | last).sum()
            if overlap > 0.5 or mask.mean() <= 0.01:
                break
        if taken[seed]:
            break
        last = part_around(mask & ~taken, seed)
        taken = taken | last
        found.append(last)
    return found


@settings(max_examples=150, deadline=None)
@given(grid=grids, sign=st.sampled_from([1, -1]))
def test_the_objects_are_those_of_the_equations_for_either_sign_of_the_vectors(grid, sign):
    keys = keys_of(grid)
    expected, got = by_equations(keys, sign), mask_cut(keys)
    assert [one.mask.tolist() for one in got] == [mask.tolist() for mask in expected]


def image():
    """Two things on a background, the larger one unlike all else, the smaller less so."""
    keys = np.tile(np.array([1, 0.0, 0], np.float32), (12, 12, 1))
    keys[2:5, 2:6] = [-0.2, 1, 0]
    keys[7:10, 6:11] = [0, -0.2, 1]
    return keys


def test_two_things_are_two_objects_without_a_common_patch():
    first, second = mask_cut(image(), objects=2)
    inside = {(2, 2, 3, 4), (7, 6, 3, 5)}
    places = set()
    for one in (first, second):
        rows, columns = np.nonzero(one.mask)
        places.add((rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1))
        assert one.mask[one.seed]
    assert places == inside and not (first.mask & second.mask).any()


def test_no_more_objects_are_found_than_there_are():
    assert len(mask_cut(image(), objects=9)) <= 3
    assert len(mask_cut(image(), objects=1)) == 1


def test_a_half_with_three_corners_is_background():
    keys = np.tile(np.array([1.0, 0]), (8, 8, 1))
    keys[0, 7] = keys[3:5, 3:5] = [0, 1]
    (one, *_) = mask_cut(keys)
    assert not (one.mask[0, 0] or one.mask[-1, 0] or one.mask[-1, -1])


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 9, 4), (6, 5, 4)])
def test_patches_that_are_all_alike_hold_no_object(shape):
    assert mask_cut(np.ones(shape, dtype=np.float32)) == []


def test_no_object_to_look_for_is_refused():
    with pytest.raises(ValueError, match="`objects` must be at least 1, got 0"):
        mask_cut(image(), objects=0)
