import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dino_app.demo.clicks import clicked_patch, spread_matches


@pytest.mark.parametrize("enlarged", [1, 2, 5])
def test_every_pixel_belongs_to_the_patch_that_it_shows(enlarged):
    rows, columns, patch = 3, 5, 8 * enlarged
    size = (rows * patch, columns * patch)
    for y in range(size[0]):
        for x in range(size[1]):
            found = clicked_patch([x, y], size=size, grid=(rows, columns))
            assert found == (y // patch, x // patch)


@pytest.mark.parametrize(
    "place",
    [
        None,
        "here",
        5,
        [],
        [1],
        [1, 2, 3],
        [-1, 0],
        [0, -0.5],
        [80, 0],
        [0, 48],
        [math.nan, 1],
        [1, math.inf],
        ["1", "2"],
        [None, 2],
        {"x": 1, "y": 2},
        [[1], [2]],
    ],
)
def test_what_is_no_place_in_the_picture_is_refused(place):
    with pytest.raises(ValueError, match=r"expected a place in a picture of 80 x 48 pixels, got"):
        clicked_patch(place, size=(48, 80), grid=(6, 10))


def distance(one, other):
    return max(abs(one[0] - other[0]), abs(one[1] - other[1]))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    count=st.integers(0, 60),
    radius=st.integers(0, 4),
    seed=st.integers(0, 1000),
    with_query=st.booleans(),
)
def test_matches_keep_their_distance_and_nothing_better_was_left_out(
    rows, columns, count, radius, seed, with_query
):
    rng = np.random.default_rng(seed)
    similarity = rng.integers(0, 9, (rows, columns)) / 8  # many equal values
    query = (int(rng.integers(rows)), int(rng.integers(columns))) if with_query else None
    matches = spread_matches(similarity, count=count, radius=radius, query=query)
    taken = [] if query is None else [query]
    for match in matches:
        assert all(distance(match, other) > radius for other in taken)
        allowed = [
            cell
            for cell in np.ndindex(rows, columns)
            if all(distance(cell, other) > radius for other in taken)
        ]
        assert similarity[match] == max(similarity[cell] for cell in allowed)
        taken.append(match)
    no_room = all(
        any(distance(cell, other) <= radius for other in taken)
        for cell in np.ndindex(rows, columns)
    )
    assert len(matches) == count or no_room


def test_neighbours_of_the_clicked_patch_are_no_matches():
    similarity = np.zeros((5, 9))
    similarity[2, 1:4] = [0.9, 1.0, 0.8]
    similarity[2, 7] = 0.5
    assert spread_matches(similarity, count=1, radius=1, query=(2, 2)) == [(2, 7)]
    assert spread_matches(similarity, count=1, radius=0, query=(2, 2)) == [(2, 1)]
