"""The papers' equations with whole matrices, and keys to try them on."""

import numpy as np
from hypothesis import assume, strategies as st

GAP = 1e-6  # of eigenvalues: a smaller one leaves the second vector undecided in floating point
MARGIN = 1e-7  # of numbers that are compared

grids = st.tuples(
    st.integers(0, 100_000), st.integers(1, 7), st.integers(1, 7), st.sampled_from([0.05, 0.4, 3.0])
)


def keys_of(grid):
    """Keys in double precision around three directions, from well apart to none."""
    seed, rows, columns, noise = grid
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 3, (rows, columns))
    return random.standard_normal((3, 5))[kinds] + noise * random.standard_normal(
        (rows, columns, 5)
    )


def weights_of(keys, tau, eps):
    """E of equation 3 of TokenCut; keys of length 0 are like no other."""
    flat = keys.reshape(-1, keys.shape[-1])
    lengths = np.linalg.norm(flat, axis=1)
    products = flat @ flat.T
    cosines = products / np.where(lengths > 0, lengths, 1)[:, None]
    cosines = cosines / np.where(lengths > 0, lengths, 1)
    others = ~np.eye(len(flat), dtype=bool)
    assume((abs(cosines - tau)[others] > MARGIN).all())
    return np.where(cosines >= tau, 1.0, eps)


def second_of(weights):
    """Eigenvalues and the second vector of (D - E) y = l D y; None if no cut is best."""
    if len(np.unique(weights[~np.eye(len(weights), dtype=bool)])) < 2:
        return None
    scale = 1 / np.sqrt(weights.sum(axis=1))
    laplacian = np.eye(len(weights)) - scale[:, None] * weights * scale
    values, vectors = np.linalg.eigh(laplacian)
    assume(values[2] - values[1] > GAP)
    vector = scale * vectors[:, 1]
    vector /= abs(vector).max()
    assume((abs(vector - vector.mean()) > MARGIN).all())
    return vector


def part_around(partition, seed):
    """The patches of a partition that a path side by side leads to from the seed."""
    part = np.zeros_like(partition)
    part[seed] = True
    while True:
        wide = np.pad(part, 1)
        wide = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:] | part
        if (wide & partition == part).all():
            return part
        part = wide & partition


def peak_of(values):
    """Place of the largest number, where it is clear of all others."""
    ordered = np.sort(values)
    assume(ordered[-1] - ordered[-2] > MARGIN)
    return int(values.argmax())
