"""Draws of a few images of each class."""

import logging

import numpy as np
from jaxtyping import Int64, Shaped

from dino_infer.evaluate.data.label_files import first_names

logger = logging.getLogger(__name__)


def available(labels: Shaped[np.ndarray, " rows"], n_per_class: int) -> int:
    """Number of images that a draw gives, with a warning where classes have too few."""
    names, counts = np.unique(labels, return_counts=True)
    small = [str(name) for name in names[counts < n_per_class]]
    if small:
        logger.warning(
            "%d classes have fewer than %d training images and use all%s",
            len(small),
            n_per_class,
            first_names(small),
        )
    return int(np.minimum(counts, n_per_class).sum())


def drawn(
    labels: Shaped[np.ndarray, " rows"], n_per_class: int, *, rng: np.random.Generator
) -> Int64[np.ndarray, " drawn"]:
    """Rows of ``n_per_class`` images of each class, all of a smaller class, in ascending order."""
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    shuffled = np.lexsort((rng.random(len(labels)), classes))
    position = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(shuffled[position < n_per_class])
