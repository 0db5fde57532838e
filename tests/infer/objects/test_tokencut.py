"""TokenCut finds what its paper's equations find with whole matrices."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dino_infer.objects.tokencut import token_cut
from tests.infer.objects.dense import (
    grids,
    keys_of,
    part_around,
    peak_of,
    second_of,
    weights_of,
)


def by_equations(keys, sign, tau=0.2, eps=1e-5):
    """Section 3 of the paper: the second vector, its mean, the patch of largest magnitude."""
    vector = second_of(weights_of(keys, tau, eps))
    if vector is None:
        return None
    vector = sign * vector
    above = vector > vector.mean()
    seed = peak_of(abs(vector))
    if not above[seed]:
        above = ~above
    grid = keys.shape[:2]
    place = tuple(int(i) for i in np.unravel_index(seed, grid))
    return part_around(above.reshape(grid), place), place


@settings(max_examples=150, deadline=None)
@given(grid=grids, sign=st.sampled_from([1, -1]))
def test_the_object_is_that_of_the_equations_for_either_sign_of_the_vector(grid, sign):
    keys = keys_of(grid)
    expected, got = by_equations(keys, sign), token_cut(keys)
    if expected is None:
        assert got is None
        return
    assert (got.mask == expected[0]).all() and got.seed == expected[1]


def image(background, thing):
    """A grid of 10 x 14 patches with a thing of 3 x 4."""
    keys = np.tile(np.array(background, np.float32), (10, 14, 1))
    keys[2:5, 6:10] = thing
    return keys + 0.01 * np.random.default_rng(0).standard_normal(keys.shape).astype(np.float32)


def test_a_thing_unlike_its_surroundings_is_the_object():
    found = token_cut(image([1, 0, 0], [0, 1, 0]))
    inside = np.zeros((10, 14), dtype=bool)
    inside[2:5, 6:10] = True
    assert (found.mask == inside).all() and inside[found.seed]
    assert found.scores[inside].min() > found.scores[~inside].max()


def test_only_the_part_around_the_seed_is_the_object():
    keys = image([1, 0, 0], [0, 1, 0])
    keys[8, 1] = [0, 1, 0]
    assert token_cut(keys).mask.sum() == 12


@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 9, 4), (6, 5, 4)])
def test_patches_that_are_all_alike_hold_no_object(shape):
    assert token_cut(np.ones(shape, dtype=np.float32)) is None
    assert token_cut(np.zeros(shape, dtype=np.float32)) is None


def test_a_single_row_of_patches_is_cut_as_any_grid():
    keys = np.array([[[1, 0]] * 5 + [[0, 1]] * 2 + [[1, 0]] * 4], dtype=np.float32)
    assert token_cut(keys).mask.tolist() == [[False] * 5 + [True] * 2 + [False] * 4]


def test_a_weight_that_leaves_patches_without_edges_is_refused():
    with pytest.raises(ValueError, match="`eps` must be above 0, got 0"):
        token_cut(image([1, 0, 0], [0, 1, 0]), eps=0)
