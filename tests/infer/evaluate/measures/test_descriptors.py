"""Whitening, score normalisation and blocks of scores."""

import numpy as np
import pytest

from dino_infer.evaluate.measures.descriptors import (
    fitted_whitening,
    similarity_bias,
    similarity_blocks,
    unit_rows,
)

ROUNDING = 1e-4


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)) + 50
    return mixed.astype(np.float32)


def test_whitened_rows_have_mean_0_and_the_identity_as_covariance(rows):
    whitened = fitted_whitening(rows)(rows)
    np.testing.assert_allclose(whitened.mean(0), 0, atol=ROUNDING)
    np.testing.assert_allclose(whitened.T @ whitened / 400, np.eye(6), atol=10 * ROUNDING)


def test_directions_are_kept_by_their_variance(rows):
    whitening = fitted_whitening(rows, components=2)
    assert whitening.components == 2
    centred = rows - rows.mean(0)
    _, spreads, directions = np.linalg.svd(centred, full_matrices=False)
    theirs = centred @ directions[:2].T / (spreads[:2] / 20)
    np.testing.assert_allclose(np.abs(whitening(rows)), np.abs(theirs), atol=10 * ROUNDING)


def test_no_more_directions_are_kept_than_the_rows_span(rows):
    assert fitted_whitening(rows[:4]).components == 3
    flat = np.concatenate([rows, rows[:, :1]], axis=1)
    assert fitted_whitening(flat, components=7).components == 6
    assert np.isfinite(fitted_whitening(rows[:4])(rows)).all()


@pytest.mark.parametrize(
    ("rows", "components", "message"),
    [
        (np.ones((1, 3), np.float32), None, "needs at least 2 rows, got 1"),
        (np.full((9, 3), 0.1, np.float32), None, "needs rows that differ, got 9 equal ones"),
        (np.zeros((9, 3), np.float32), None, "needs rows that differ"),
        (np.eye(3, dtype=np.float32), 0, "components must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_whitened_is_refused(rows, components, message):
    with pytest.raises(ValueError, match=message):
        fitted_whitening(rows, components=components)


def test_the_bias_is_the_mean_of_the_three_nearest(rows):
    queries, background = unit_rows(rows[:300] - 50), unit_rows(rows[300:] - 50)
    expected = np.sort(queries @ background.T, axis=1)[:, -3:].mean(1)
    np.testing.assert_allclose(similarity_bias(queries, background), expected, atol=1e-6)
    one = similarity_bias(queries, background[:1])
    np.testing.assert_allclose(one, queries @ background[0], atol=1e-6)


def test_blocks_are_all_of_the_scores(rows):
    parts = [scores for _, scores in similarity_blocks(rows[:300], rows[:5])]
    assert len(parts) == 2
    np.testing.assert_allclose(np.concatenate(parts), rows[:300] @ rows[:5].T, rtol=1e-6)


def test_a_row_of_zeros_stays(rows):
    assert not unit_rows(np.zeros((2, 3), np.float32)).any()
