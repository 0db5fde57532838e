"""Patches of images with the classes of their pixels, and pixels classified by them."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor
from torch.nn import functional as F

from dino_infer.attention.views import View
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError
from dino_infer.evaluate.data.mask_sets import MaskSets
from dino_infer.evaluate.data.masks import MaskedImages
from dino_infer.evaluate.measures.overlaps import patch_of_pixels
from dino_infer.evaluate.measures.patch_labels import (
    balanced_patches,
    label_counts,
    pixel_classes,
    spread_labels,
)
from dino_infer.images.preprocess import Preprocess
from dino_infer.knn.neighbors import exact_neighbors, normalized
from dino_infer.networks.backbone import Images
from dino_infer.progress import Progress

QUERIES_AT_ONCE = 2**15  # rows of patches that are searched together

Predictor = Callable[[Float32[np.ndarray, "rows dim"]], Float32[np.ndarray, "rows classes"]]
"""Scores of each class for rows of patch features of length 1."""

logger = logging.getLogger(__name__)


class MemoryBank(NamedTuple):
    """Patches to learn from."""

    features: Float32[np.ndarray, "rows dim"]
    """Features of length 1."""
    labels: Float32[np.ndarray, "rows classes"]
    """Share of each class in the known pixels of a patch."""
    images: Int64[np.ndarray, " rows"]
    """Place in the memory of the image that each patch is of."""


class PatchFeatures(NamedTuple):
    """Features of the patches of one image."""

    place: int
    """Place of the image in its list."""
    rows: Float32[np.ndarray, "patches dim"]
    """Features of length 1."""


def patch_features(embedder: Embedder, data: MaskedImages, *, what: str) -> Iterator[PatchFeatures]:
    """Features of the patches of each image that can be read; others are warned of.

    Args:
        embedder: Maker of the features of patches.
        data: Images.
        what: Name of the job for its progress.
    """
    with Progress(what, total=len(data)) as progress:
        for batch in embedder.batches(data.images):
            for place in sorted(batch.failures):
                failure = batch.failures[place]
                logger.warning("%r: %s", failure.path, failure.reason)
            for place, rows in zip(batch.indices.tolist(), batch.features, strict=True):
                yield PatchFeatures(place, np.asarray(normalized(rows)))
            progress.advance(len(batch.places))


def memory_banks(
    patches: Iterable[PatchFeatures],
    sets: MaskSets,
    *,
    grid: tuple[int, int],
    size: int,
    subsets: Sequence[int],
    seed: int,
) -> list[MemoryBank]:
    """Memories of limited size, one for each subset of the images.

    Every image gives as many patches, chosen by ``balanced_patches``; a smaller subset has more of
    each image. The draws depend on the seed and the place of the image, on nothing else.

    Args:
        patches: Features of the first images of ``sets.memory``, as many as the largest subset has.
        sets: Images and their classes.
        grid: Patches per column and row of an image.
        size: Most patches of a memory; each image gives at least one.
        subsets: Denominators: 8 takes one image of 8.
        seed: Seed of the draws.

    Raises:
        DataError: No image of a subset could be read.
    """
    counts = [len(sets.subset(denominator)) for denominator in subsets]
    parts: list[list[MemoryBank]] = [[] for _ in subsets]
    for place, rows in patches:
        labels = patch_label_counts(sets, place, grid)
        for number, bank in zip(counts, parts, strict=True):
            if place < number:
                rng = np.random.default_rng((seed, place))
                chosen = balanced_patches(labels, max(1, size // number), rng=rng)
                shares = labels[chosen] / labels[chosen].sum(axis=1, keepdims=True)
                images = np.full(len(chosen), place)
                bank.append(MemoryBank(rows[chosen], shares.astype(np.float32), images))
    if not all(parts):
        raise DataError(f"no image of {sets.memory.source!r} could be read")
    return [MemoryBank(*map(np.concatenate, zip(*bank, strict=True))) for bank in parts]


def patch_label_counts(
    sets: MaskSets, i: int, grid: tuple[int, int]
) -> Int64[np.ndarray, "patches classes"]:
    """Count the pixels of each class in each patch of an image squeezed into a grid of patches."""
    classes = sets.indices(sets.memory.class_labels(i))
    (rows, columns), (height, width) = grid, classes.shape
    view = View(rows, columns, 0.0, 0.0, width / columns, height / rows)
    parts = patch_of_pixels(view, height, width)
    return label_counts(
        classes, parts, parts_number=rows * columns, classes_number=len(sets.classes)
    )


def nearest_labels(
    bank: MemoryBank, *, k: int, temperature: float, device: str | torch.device
) -> Predictor:
    """A predictor that takes the labels of the nearest patches of a memory."""
    k = min(k, len(bank.features))

    def predict(rows: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows classes"]:
        near = exact_neighbors(bank.features, rows, k=k, device=device)
        return spread_labels(near.similarities, near.rows, bank.labels, temperature=temperature)

    return predict


class Segmented(NamedTuple):
    """A query image with its pixels classified."""

    place: int
    """Place of the image among the queries."""
    wanted: Int32[np.ndarray, "height width"]
    """Place of each pixel's class in ``MaskSets.classes``, or ``VOID``."""
    found: dict[str, np.ndarray]
    """The same as each predictor finds it."""


def predicted_classes(
    patches: Iterable[PatchFeatures],
    sets: MaskSets,
    predictors: Mapping[str, Predictor],
    *,
    grid: tuple[int, int],
) -> Iterator[Segmented]:
    """Classify the pixels of the queries, image by image.

    Args:
        patches: Features of the queries that could be read.
        sets: The queries and their classes.
        predictors: Predictors of patches by name.
        grid: Patches per column and row of an image.
    """
    for group in _groups(patches):
        rows = np.concatenate([one.rows for one in group])
        scores = {name: predict(rows) for name, predict in predictors.items()}
        start = 0
        for one in group:
            some = slice(start, start := start + len(one.rows))
            wanted = sets.indices(sets.queries.class_labels(one.place))
            found = {
                name: pixel_classes(values[some], grid, *wanted.shape)
                for name, values in scores.items()
            }
            yield Segmented(one.place, wanted, found)


def _groups(patches: Iterable[PatchFeatures]) -> Iterator[list[PatchFeatures]]:
    """Images together that are worth one search."""
    group: list[PatchFeatures] = []
    rows = 0
    for one in patches:
        group.append(one)
        rows += len(one.rows)
        if rows >= QUERIES_AT_ONCE:
            yield group
            group, rows = [], 0
    if group:
        yield group


def mean_color_embedder(size: tuple[int, int], patch_size: int, **options: Any) -> Embedder:
    """The answer without a network: the mean colour of a patch is its feature."""
    preprocess = Preprocess(size=size, crop="none", patch_size=patch_size, exact_decode=True)
    return Embedder(_MeanColors(patch_size), preprocess, **options)


class _MeanColors:
    """The engine of ``mean_color_embedder``."""

    device = torch.device("cpu")

    def __init__(self, patch_size: int) -> None:
        self.patch_size: int | None = patch_size

    def description(self) -> dict[str, Any]:
        return {"arch": "pixels", "feature": "patches", "precision": "fp32", "weights_sha256": ""}

    def __call__(self, images: Images) -> Float[Tensor, "batch patches 4"]:
        assert self.patch_size is not None
        means = F.avg_pool2d(images, self.patch_size).flatten(2).transpose(1, 2)
        # A constant tells dark from bright, which the angle between colours does not.
        return torch.cat([means, torch.ones_like(means[..., :1])], dim=-1)
