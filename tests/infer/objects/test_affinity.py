"""The graph of alike patches and its second vector are those of whole matrices."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings

from dino_infer.objects import affinity
from dino_infer.objects.affinity import (
    PatchGraph,
    alike_rows,
    checked_rows,
    second_vector,
    unit_rows,
)
from tests.infer.objects.dense import grids, keys_of, second_of, weights_of

TOLERANCE = 1e-6  # of vectors whose largest entry is 1: residual 1e-10 over a gap of 1e-6, and room
EPS = 1e-5


def graph_of(keys, tau=0.2):
    return PatchGraph(alike_rows(unit_rows(checked_rows(keys)), at_least=tau), EPS)


def as_one(vector):
    """The vector up to its length and sign."""
    vector = vector / abs(vector).max()
    return vector * np.sign(vector[abs(vector).argmax()])


def weights(graph):
    return np.where(graph.alike, 1.0, graph.eps)


@settings(max_examples=100, deadline=None)
@given(grid=grids)
def test_the_second_vector_is_that_of_the_dense_problem(grid):
    keys = keys_of(grid)
    expected = second_of(weights_of(keys, 0.2, EPS))
    graph = graph_of(keys)
    assert graph.is_uniform == (expected is None)
    assume(expected is not None)
    got, expected = second_vector(graph), as_one(expected)
    # The peak may be one of two equals with other signs.
    error = min(abs(as_one(got) - sign * expected).max() for sign in (1, -1))
    assert error < TOLERANCE


@settings(max_examples=30, deadline=None)
@given(grid=grids)
def test_degrees_and_products_are_those_of_the_matrix(grid):
    graph = graph_of(keys_of(grid))
    vector = np.random.default_rng(1).standard_normal(len(graph.alike))
    np.testing.assert_allclose(graph.degrees(), weights(graph).sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(graph.times(vector), weights(graph) @ vector, atol=1e-12)


def test_blocks_of_rows_change_nothing(monkeypatch):
    keys = keys_of((3, 6, 7, 0.4))
    graph = graph_of(keys)
    vector = second_vector(graph)
    monkeypatch.setattr(affinity, "ROWS_AT_ONCE", 5)
    assert (graph_of(keys).alike == graph.alike).all()
    np.testing.assert_allclose(second_vector(graph), vector, atol=1e-8)


def test_alike_is_symmetric_where_products_round_to_either_side():
    rows = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
    product = float((rows @ rows.T)[3, 200])
    alike = alike_rows(rows, at_least=product)
    assert (alike == alike.T).all()


def clusters(*sizes):
    of = np.repeat(np.arange(len(sizes)), sizes)
    return PatchGraph(of[:, None] == of, EPS)


@pytest.mark.parametrize("sizes", [(60, 40, 20), (100, 1), (1, 50, 1, 1, 30), (2, 1)])
def test_parts_without_an_edge_between_them_are_not_split(sizes):
    graph = clusters(*sizes)
    vector = as_one(second_vector(graph))
    above = vector > vector.mean()
    starts = np.cumsum((0, *sizes))
    for start, end in itertools.pairwise(starts):
        assert above[start:end].all() or not above[start:end].any()
    assert above.any() and not above.all()


def test_a_long_chain_of_patches_is_cut_in_the_middle():
    places = np.arange(200)
    graph = PatchGraph(abs(np.subtract.outer(places, places)) <= 1, 1e-9)
    above = second_vector(graph) > 0
    assert above[:100].all() != above[100:].all() and abs(np.diff(above * 1)).sum() == 1


def test_the_same_graph_has_the_same_vector_each_time():
    graph = clusters(30, 30, 30)  # a multiple eigenvalue: any vector of a plane would do
    assert (second_vector(graph) == second_vector(graph)).all()


@pytest.mark.parametrize("alike", [True, False])
def test_no_cut_is_better_than_another_where_all_pairs_weigh_the_same(alike):
    graph = PatchGraph(np.eye(9, dtype=bool) | alike, EPS)
    assert graph.is_uniform
    assert not clusters(5, 4).is_uniform


def test_keys_that_are_not_finite_are_refused_with_their_place():
    keys = np.ones((3, 4, 2), dtype=np.float32)
    keys[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="`keys` must be finite, got NaN .* at row 1, column 2"):
        checked_rows(keys)
    with pytest.raises(ValueError, match=r"at least one patch, got shape \(0, 4, 2\)"):
        checked_rows(keys[:0])


def test_rows_of_length_zero_stay_and_large_ones_do_not_overflow():
    rows = np.array([[0, 0], [3e30, 4e30]], dtype=np.float32)
    np.testing.assert_allclose(unit_rows(rows), [[0, 0], [0.6, 0.8]], rtol=1e-6)
