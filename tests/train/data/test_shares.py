"""Shares of a batch when a run goes on with other processes than it was begun by."""

import pytest
from hypothesis import given, strategies as st

from dino_train.data.shares import parts_of_share


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 6), st.integers(1, 12))
def test_parts_are_equal_and_no_larger_than_they_were(begun_by, parts, part, processes):
    batch = begun_by * parts * part * processes
    found = parts_of_share(batch, processes=processes, parts=parts, begun_by=begun_by)
    assert batch % (processes * found) == 0
    assert batch // (processes * found) <= batch // (begun_by * parts)
    if processes == begun_by:
        assert found == parts


@pytest.mark.parametrize(("processes", "expected"), [(4, 1), (2, 2), (1, 4), (8, 1), (3, 2)])
def test_fewer_processes_take_as_few_parts_as_fit(processes: int, expected: int):
    assert parts_of_share(96, processes=processes, parts=1, begun_by=4) == expected


@pytest.mark.parametrize(
    ("batch", "processes", "parts", "begun_by", "message"),
    [
        (96, 5, 1, 4, "processes x accumulation steps = 5 x 1, got 96; it is one with 4 or 6 proc"),
        (96, 5, 2, 5, "processes x accumulation steps = 5 x 2, got 96; it is one with 4 or 6 proc"),
        (4, 7, 1, 7, "= 7 x 1, got 4; it is one with 4 processes"),
        (5, 1, 2, 1, "= 1 x 2, got 5$"),
    ],
)
def test_a_refusal_says_how_many_could_share(batch, processes, parts, begun_by, message):
    with pytest.raises(ValueError, match=message):
        parts_of_share(batch, processes=processes, parts=parts, begun_by=begun_by)
