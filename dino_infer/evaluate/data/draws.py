"""Draws of a few images of each class."""

import logging
from collections.abc import Iterable
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int64, Shaped

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


def distinct(numbers: Iterable[SupportsIndex]) -> tuple[int, ...]:
    """The numbers as built-in integers, each once, in their order."""
    return tuple(dict.fromkeys(int(number) for number in numbers))


def check_tries(tries: int, *, least: int = 1) -> None:
    """Refuse fewer draws or trainings than a figure needs.

    Raises:
        ValueError: There are fewer than ``least``.
    """
    if tries < least:
        purpose = " to tell a spread" if least > 1 else ""
        raise ValueError(f"`tries` must be at least {least}{purpose}, got {tries}")


def drawn(
    labels: Shaped[np.ndarray, " rows"], n_per_class: int, *, rng: np.random.Generator
) -> Int64[np.ndarray, " drawn"]:
    """Rows of ``n_per_class`` images of each class, all of a smaller class, in ascending order."""
    shuffled, position, _ = _shuffled(labels, rng)
    return np.sort(shuffled[position < n_per_class])


def held_out(
    labels: Shaped[np.ndarray, " rows"], *, share: float, rng: np.random.Generator
) -> Bool[np.ndarray, " rows"]:
    """True for a share of the rows of each class, at least one of it and never all.

    A class of one row keeps it.
    """
    shuffled, position, counts = _shuffled(labels, rng)
    wanted = np.minimum(np.maximum(np.rint(share * counts), 1), counts - 1)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[shuffled] = position < wanted
    return chosen


class _Shuffled(NamedTuple):
    """Rows class by class, in random order within each."""

    rows: Int64[np.ndarray, " rows"]
    position: Int64[np.ndarray, " rows"]
    """Place of each in its class."""
    of: Int64[np.ndarray, " rows"]
    """Rows of its class."""


def _shuffled(labels: Shaped[np.ndarray, " rows"], rng: np.random.Generator) -> _Shuffled:
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    rows = np.lexsort((rng.random(len(labels)), classes))
    position = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _Shuffled(rows, position, np.repeat(counts, counts))
