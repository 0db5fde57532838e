"""Image descriptors made comparable: unit length, PCA whitening, and scores less a background's."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64

Rows = Float[np.ndarray, "rows dim"]

QUERIES_AT_ONCE = 256
ROWS_AT_ONCE = 16_384
BACKGROUND_NEIGHBOURS = 3
LEAST_VARIANCE = 1e-5
"""Share of the largest variance, below which a direction is noise that whitening would blow up."""
LEAST_SPREAD = 1e-12
"""Variance by the square of the mean, below which rows differ by rounding alone."""


def unit_rows(rows: Rows) -> Float32[np.ndarray, "rows dim"]:
    """Rows scaled to length 1; a row of zeros stays as it is."""
    rows = np.asarray(rows, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


@dataclass(frozen=True)
class Whitening:
    """PCA that gives the rows it was fitted on mean 0 and variance 1 in each direction kept."""

    mean: Float64[np.ndarray, " dim"]
    projection: Float64[np.ndarray, "dim components"]

    @property
    def components(self) -> int:
        """Number of directions kept."""
        return int(self.projection.shape[1])

    def __call__(self, rows: Rows) -> Float32[np.ndarray, "rows components"]:
        """Rows in the directions kept."""
        centred = rows.astype(np.float64) - self.mean
        return np.asarray(centred @ self.projection, np.float32)


def fitted_whitening(rows: Rows, *, components: int | None = None) -> Whitening:
    """The whitening of these rows.

    Args:
        rows: Features of images that are no queries.
        components: Most directions to keep, those of the largest variance; None keeps all that the
            rows span, which is less than the number of rows.

    Raises:
        ValueError: The rows span no direction, or ``components`` is below 1.
    """
    if components is not None and components < 1:
        raise ValueError(f"components must be at least 1, got {components}")
    if len(rows) < 2:
        raise ValueError(f"whitening needs at least 2 rows, got {len(rows)}")
    mean = rows.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(_covariance(rows, mean))
    least = max(LEAST_VARIANCE * variances[-1], LEAST_SPREAD * float(mean @ mean))
    spanned = int((variances > least).sum())
    kept = min(spanned, len(rows) - 1, components or spanned)
    if not kept:
        raise ValueError(f"whitening needs rows that differ, got {len(rows)} equal ones")
    largest = np.arange(len(variances) - 1, len(variances) - 1 - kept, -1)
    return Whitening(mean, directions[:, largest] / np.sqrt(variances[largest]))


def similarity_bias(
    queries: Float[np.ndarray, "queries dim"],
    background: Float[np.ndarray, "background dim"],
    *,
    neighbours: int = BACKGROUND_NEIGHBOURS,
) -> Float32[np.ndarray, " queries"]:
    """Mean similarity of each query to its nearest background images.

    Subtracted from the scores of a query it makes those of different queries comparable: an image
    that is like everything has a high one.

    Args:
        queries: Rows of unit length.
        background: Images that are neither queries nor references, of unit length.
        neighbours: Number of background images; clamped to those there are.

    Source: https://arxiv.org/abs/2202.10261, score normalization, with the published code's three
    nearest and weight 1.
    """
    count = min(neighbours, len(background))
    bias = np.empty(len(queries), np.float32)
    for rows, scores in similarity_blocks(queries, background):
        nearest = np.partition(scores, len(background) - count, axis=1)[:, -count:]
        bias[rows] = nearest.mean(axis=1)
    return bias


def similarity_blocks(
    queries: Float[np.ndarray, "queries dim"], references: Float[np.ndarray, "references dim"]
) -> Iterator[tuple[slice, Float[np.ndarray, "block references"]]]:
    """Inner products of some queries at a time with all references."""
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        yield rows, queries[rows] @ references.T


def _covariance(rows: Rows, mean: Float64[np.ndarray, " dim"]) -> Float64[np.ndarray, "dim dim"]:
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), ROWS_AT_ONCE):
        centred = rows[start : start + ROWS_AT_ONCE] - mean
        total += centred.T @ centred
    return total / len(rows)
