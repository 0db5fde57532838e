"""The nearest rows: their order, their precision, and rows of any scale."""

import numpy as np
import pytest
import torch

from dino_infer.knn import neighbors


@pytest.mark.parametrize("scores_at_once", [1, 50, 2**27])
def test_equally_near_rows_come_in_their_own_order(monkeypatch, scores_at_once):
    monkeypatch.setattr(neighbors, "SCORES_AT_ONCE", scores_at_once)
    # Eight copies of the unit vectors: every similarity is exactly 0 or 1.
    train = np.tile(np.eye(4, dtype=np.float32), (8, 1))
    for kind in (np.asarray, torch.from_numpy):
        near = neighbors.exact_neighbors(kind(train), kind(train[:4]), k=8)
        assert (near.similarities == 1).all()
        np.testing.assert_array_equal(near.rows, np.arange(4)[:, None] + range(0, 32, 4))


def test_a_search_keeps_the_float32_setting_of_the_process():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        for precision in ("tf32", "ieee"):
            matmul.fp32_precision = precision
            neighbors.exact_neighbors(torch.eye(3), torch.eye(3), k=1)
            assert matmul.fp32_precision == precision
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_features_of_any_scale_are_normalised(kind):
    rows = np.array([[3, 4], [3e-30, 4e-30], [3e30, 4e30], [0, 0]], dtype=np.float32)
    got = neighbors.normalized(kind(rows))
    assert type(got) is type(kind(rows))
    expected = np.array([[0.6, 0.8]] * 3 + [[0, 0]], dtype=np.float32)
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-6)
