"""Scores of stored vectors, computed in one way, whatever has proposed the rows."""

import numpy as np
from jaxtyping import Float32

ROUNDING = 4e-6  # more than float32 sums of unit vectors of some thousand values are off


def exact_scores(
    vectors: Float32[np.ndarray, "rows dim"], query: Float32[np.ndarray, " dim"]
) -> Float32[np.ndarray, " rows"]:
    """Inner products, the same for equal vectors whatever stands beside them."""
    sums = np.einsum("ij,j->i", vectors.astype(np.float64), query.astype(np.float64))
    scores: Float32[np.ndarray, " rows"] = sums.astype(np.float32)
    return scores
