"""Graph of alike patches, and the vector that cuts it best, in memory of a byte a pair."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

ROWS_AT_ONCE = 128  # of the graph in floating point: they stay in the cache of a core
CHECK_EVERY = 8  # Lanczos steps
MOST_STEPS = 500
RESIDUAL = 1e-10  # of eigenvalues, which lie in [-1, 1]
NO_NEW_DIRECTION = 1e-12


class PatchGraph(NamedTuple):
    """Undirected graph over patches: weight 1 between alike ones, and ``eps`` between all others.

    Source: Wang et al. 2022, https://arxiv.org/abs/2202.11539, equation 3.
    """

    alike: Bool[np.ndarray, "patches patches"]
    eps: float

    @property
    def is_uniform(self) -> bool:
        """True if all pairs of patches weigh the same, so that no cut is better than another."""
        patches = len(self.alike)
        pairs = int(self.alike.sum() - np.trace(self.alike))
        return pairs in (0, patches * (patches - 1))

    def degrees(self) -> Float64[np.ndarray, " patches"]:
        """Sum of the weights at each patch."""
        neighbours = self.alike.sum(axis=1)
        degrees: np.ndarray = neighbours + self.eps * (len(self.alike) - neighbours)
        return degrees

    def times(self, vector: Float64[np.ndarray, " patches"]) -> Float64[np.ndarray, " patches"]:
        """The matrix of weights times a vector."""
        product = np.empty_like(vector)
        for start in range(0, len(vector), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            product[rows] = self.alike[rows].astype(np.float64) @ vector
        weighed: np.ndarray = (1 - self.eps) * product + self.eps * vector.sum()
        return weighed


def checked_rows(keys: Float[np.ndarray, "rows columns dim"]) -> Float[np.ndarray, "patches dim"]:
    """The keys of a grid, one patch after the other, in single precision or better.

    Raises:
        ValueError: There is no patch, or a key is not finite.
    """
    if not keys.size:
        raise ValueError(f"`keys` must hold at least one patch, got shape {keys.shape}")
    finite = np.isfinite(keys).all(axis=-1)
    if not finite.all():
        row, column = (int(place) for place in np.argwhere(~finite)[0])
        raise ValueError(
            f"`keys` must be finite, got NaN or infinity at row {row}, column {column}; make them "
            "again, with weights that are whole"
        )
    single = np.promote_types(keys.dtype, np.float32)  # products in half precision are slow
    rows: np.ndarray = keys.reshape(-1, keys.shape[-1]).astype(single)
    return rows


def unit_rows(rows: Float[np.ndarray, "patches dim"]) -> Float[np.ndarray, "patches dim"]:
    """Rows of length 1; those of length 0 stay, and are like no other."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    unit: np.ndarray = (rows / np.where(lengths > 0, lengths, 1)).astype(rows.dtype)
    return unit


def alike_rows(
    rows: Float[np.ndarray, "patches dim"], *, at_least: float
) -> Bool[np.ndarray, "patches patches"]:
    """True for pairs of rows whose product is at least so much; symmetric to the last bit."""
    count = len(rows)
    alike = np.empty((count, count), dtype=np.bool_)
    for start in range(0, count, ROWS_AT_ONCE):
        end = min(start + ROWS_AT_ONCE, count)
        block = rows[start:end] @ rows[start:].T >= at_least
        alike[start:end, start:] = block
        # Not computed again: the other way round a product may round otherwise.
        alike[start:, start:end] = block.T
    return alike


def second_vector(graph: PatchGraph) -> Float64[np.ndarray, " patches"]:
    """The vector y of the second smallest eigenvalue of (D - E) y = λ D y, of either sign.

    E is the matrix of weights and D holds the degrees. Where the eigenvalue is a multiple one, y
    is the same vector of its space each time. The largest eigenvectors of D^-1/2 E D^-1/2 are those
    sought, times D^1/2; the first is known, and Lanczos' method finds the second from products of
    the matrix with vectors.

    Args:
        graph: At least two patches.

    Source: Shi and Malik 2000, https://doi.org/10.1109/34.868688, section 2.
    """
    scale = 1 / np.sqrt(graph.degrees())
    first = 1 / scale
    basis = [first / np.linalg.norm(first)]
    direction = np.random.default_rng(0).standard_normal(len(scale))
    direction, _ = _new_direction(direction, basis)
    diagonal: list[float] = []
    beside: list[float] = []
    steps = min(len(scale) - 1, MOST_STEPS)
    while True:
        basis.append(direction)
        image = scale * graph.times(scale * direction)
        diagonal.append(float(image @ direction))
        direction, length = _new_direction(image, basis)
        is_last = len(diagonal) == steps or length < NO_NEW_DIRECTION
        if is_last or len(diagonal) % CHECK_EVERY == 0:
            coordinates = _largest(diagonal, beside)
            if is_last or length * abs(coordinates[-1]) < RESIDUAL:
                vector: np.ndarray = scale * (coordinates @ np.stack(basis[1:]))
                return vector
        beside.append(length)


def _new_direction(
    vector: Float64[np.ndarray, " patches"], basis: list[Float64[np.ndarray, " patches"]]
) -> tuple[Float64[np.ndarray, " patches"], float]:
    """Unit vector along the part of a vector that is orthogonal to a basis, and its length."""
    rows = np.stack(basis)
    for _ in range(2):  # once loses digits where little is left
        vector = vector - (rows @ vector) @ rows
    length = float(np.linalg.norm(vector))
    return vector / (length or 1), length


def _largest(diagonal: list[float], beside: list[float]) -> Float64[np.ndarray, " steps"]:
    """Eigenvector of the largest eigenvalue of a symmetric tridiagonal matrix."""
    matrix = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    vector: np.ndarray = np.linalg.eigh(matrix).eigenvectors[:, -1]
    return vector
