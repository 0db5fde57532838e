"""k-NN classification of labelled images: with all training images, and with few a class."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Shaped

from dino_infer.errors import DataError
from dino_infer.evaluate.label_files import first_names
from dino_infer.evaluate.labelled import LabelledFeatures
from dino_infer.knn.classifier import accuracies, clamped_k, nearest, nearest_others
from dino_infer.knn.votes import TEMPERATURE, Ranking, rankings

logger = logging.getLogger(__name__)


class FewShot(NamedTuple):
    """Top-1 over several draws of ``n_per_class`` training images a class."""

    n_per_class: int
    k: int
    top1_percent_mean: float
    top1_percent_std: float
    """Sample standard deviation of a single draw."""


def knn_rankings(
    train: LabelledFeatures,
    val: LabelledFeatures | None,
    *,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
    device: str | torch.device = "cpu",
) -> dict[int, Ranking]:
    """Rank the labels of each image by the vote of each k, from one search.

    Args:
        train: The neighbours.
        val: Images to classify; None classifies each training image by all the others.
        ks: Numbers of neighbours.
        temperature: Temperature of the vote.
        device: Where to search.

    Raises:
        DataError: A set holds rows that cannot be used, or too few of them.
    """
    try:
        if val is None:
            found = nearest_others(train.matrix, k=max(ks), device=device)
        else:
            found = nearest(train.matrix, val.matrix, k=max(ks), device=device)
    except ValueError as error:
        sources = train.source if val is None else f"{train.source} and {val.source}"
        raise DataError(f"k-NN on {sources}: {error}") from error
    wanted = train.labels if val is None else val.labels
    return rankings(found, train.labels, wanted, ks=ks, temperature=temperature)


def few_shot_accuracies(
    train: LabelledFeatures,
    val: LabelledFeatures,
    *,
    n_per_class: Sequence[int],
    tries: int,
    seed: int,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
    device: str | torch.device = "cpu",
) -> list[FewShot]:
    """Top-1 accuracy with few training images a class, redrawn for each try.

    The draws depend on the seed, the number of the try and ``n_per_class``, on nothing else.

    Args:
        train: Where the images are drawn from; a class with fewer gives all, with a warning.
        val: Images to classify.
        n_per_class: Training images a class; one or several numbers.
        tries: Draws of each number, at least 2.
        seed: Of the draws.
        ks: Numbers of neighbours; each is clamped to the images drawn.
        temperature: Temperature of the vote.
        device: Where to search.

    Returns:
        One result for each number of images and each k.
    """
    results = []
    for count in n_per_class:
        available = _available(train.labels, count)
        k = clamped_k(max(ks), available=available)
        top1 = np.empty((tries, len(ks)))
        for number in range(tries):
            rows = drawn(train.labels, count, rng=np.random.default_rng((seed, count, number)))
            near = nearest(train.matrix[rows], val.matrix, k=k, device=device)
            found = accuracies(near, train.labels[rows], val.labels, ks=ks, temperature=temperature)
            top1[number] = [found[asked].top1_percent for asked in ks]
        spreads = zip(ks, top1.mean(axis=0), top1.std(axis=0, ddof=1), strict=True)
        results += [FewShot(count, asked, float(mean), float(std)) for asked, mean, std in spreads]
    return results


def _available(labels: Shaped[np.ndarray, " rows"], n_per_class: int) -> int:
    """Images that a draw gives, with a warning where classes have too few."""
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
