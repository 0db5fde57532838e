"""LOST finds what its paper's equations find with whole matrices."""

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from dino_infer.objects.lost import lost
from tests.infer.objects.dense import MARGIN, grids, keys_of, part_around


def by_equations(keys, k):
    """Section 3 of the paper, its equations 1 to 4; of equal degrees the first patch is taken."""
    grid = keys.shape[:2]
    flat = keys.reshape(-1, keys.shape[-1])
    products = flat @ flat.T
    assume((abs(products) > MARGIN).all())
    degrees = (products >= 0).sum(axis=1)
    order = sorted(range(len(flat)), key=lambda p: (degrees[p], p))
    seed = order[0]
    grown = [q for q in order[:k] if products[q, seed] >= 0]
    scores = np.array([sum(flat[q] @ flat[s] for s in grown) for q in range(len(flat))])
    assume((abs(scores) > MARGIN).all())
    place = (seed // grid[1], seed % grid[1])
    return part_around((scores >= 0).reshape(grid), place), place


@settings(max_examples=150, deadline=None)
@given(grid=grids, k=st.sampled_from([1, 4, 100]))
def test_the_object_is_that_of_the_equations(grid, k):
    keys = keys_of(grid)
    mask, seed = by_equations(keys, k)
    found = lost(keys, k=k)
    assert (found.mask == mask).all() and found.seed == seed


def test_a_thing_unlike_its_surroundings_is_the_object():
    keys = np.tile(np.array([1, -0.5], np.float32), (8, 9, 1))
    keys[3:6, 2:5] = [-0.5, 1]
    inside = np.zeros((8, 9), dtype=bool)
    inside[3:6, 2:5] = True
    assert (lost(keys).mask == inside).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 9, 4), (6, 5, 4)])
def test_patches_that_are_all_alike_are_one_object(shape, value):
    assert lost(np.full(shape, value, dtype=np.float32)).mask.all()


def test_no_patch_to_grow_with_is_refused():
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        lost(np.ones((2, 2, 3), dtype=np.float32), k=0)
