"""Labels of patches: made from masks, spread to other patches, and compared pixel by pixel."""

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int32, Int64, Integer
from torch.nn import functional as F

VALUES_AT_ONCE = 2**24  # labels of neighbours that are weighed together: 64 MiB of float32


def label_counts(
    classes: Int32[np.ndarray, "height width"],
    parts: Integer[np.ndarray, "height width"],
    *,
    parts_number: int,
    classes_number: int,
) -> Int64[np.ndarray, "parts classes"]:
    """Count the pixels of each class in each part of an image.

    Args:
        classes: Class of each pixel, from 0; negative where it is void.
        parts: Part of each pixel, from 0.
        parts_number: Number of parts.
        classes_number: Number of classes.
    """
    known = classes >= 0
    cells = parts[known].astype(np.int64) * classes_number + classes[known]
    table = np.bincount(cells, minlength=parts_number * classes_number)
    return table.reshape(parts_number, classes_number)


def balanced_patches(
    counts: Int64[np.ndarray, "patches classes"], number: int, *, rng: np.random.Generator
) -> Int64[np.ndarray, " chosen"]:
    """Random patches of an image, those of its rare classes more likely; in ascending order.

    Patches without a known pixel are never chosen.

    Source: https://arxiv.org/abs/2306.01667, appendix A: a patch is scored by the number of patches
    that its classes are in, times a uniform random number, and the lowest scores are taken.
    """
    present = counts > 0
    scores = present @ present.sum(axis=0) * rng.random(len(counts))
    scores[~present.any(axis=1)] = np.inf
    chosen = np.argsort(scores, kind="stable")[:number]
    return np.sort(chosen[np.isfinite(scores[chosen])])


def spread_labels(
    similarities: Float32[np.ndarray, "queries k"],
    rows: Int64[np.ndarray, "queries k"],
    labels: Float32[np.ndarray, "memory classes"],
    *,
    temperature: float,
) -> Float32[np.ndarray, "queries classes"]:
    """Labels of the nearest rows of a memory, weighed by attention: softmax of the similarities.

    Source: https://arxiv.org/abs/2306.01667, section 3.2.
    """
    weights = torch.from_numpy(similarities / temperature).softmax(dim=1).numpy()
    spread = np.empty((len(rows), labels.shape[1]), np.float32)
    step = max(1, VALUES_AT_ONCE // max(1, rows.shape[1] * labels.shape[1]))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        spread[some] = np.einsum("qk,qkc->qc", weights[some], labels[rows[some]])
    return spread


def pixel_classes(
    scores: Float[np.ndarray, "patches classes"], grid: tuple[int, int], height: int, width: int
) -> Int32[np.ndarray, "{height} {width}"]:
    """The class of the highest score at each pixel, between patches by bilinear interpolation."""
    present = np.flatnonzero((scores > 0).any(axis=0))
    if not len(present):
        return np.zeros((height, width), np.int32)
    planes = torch.from_numpy(np.ascontiguousarray(scores[:, present].T, dtype=np.float32))
    planes = planes.reshape(1, len(present), *grid)
    big = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False)
    found: np.ndarray = present[big[0].numpy().argmax(axis=0)].astype(np.int32)
    return found


def tally(
    wanted: Int32[np.ndarray, "height width"],
    found: Int32[np.ndarray, "height width"],
    *,
    classes_number: int,
) -> Int64[np.ndarray, "3 classes"]:
    """Pixels of each class of an image: right, in the ground truth, and in the prediction.

    Args:
        wanted: Class of each pixel; negative where it is void and does not count.
        found: The class predicted.
        classes_number: Number of classes.
    """
    known = wanted >= 0
    wanted, found = wanted[known], found[known]
    right = wanted[wanted == found]
    return np.stack(
        [np.bincount(column, minlength=classes_number) for column in (right, wanted, found)]
    )


def class_iou(tallies: Int64[np.ndarray, "images 3 classes"]) -> Float64[np.ndarray, " classes"]:
    """Jaccard index of each class over all images together; NaN for one that never occurs."""
    right, wanted, found = tallies.sum(axis=0).astype(np.float64)
    union = wanted + found - right
    iou: np.ndarray = np.divide(right, union, out=np.full(len(union), np.nan), where=union > 0)
    return iou


def mean_iou(tallies: Int64[np.ndarray, "images 3 classes"]) -> float:
    """Mean over the classes that occur in the ground truth or the prediction."""
    return float(np.nanmean(class_iou(tallies)))


def mean_iou_spread(
    tallies: Int64[np.ndarray, "images 3 classes"], *, seed: int, draws: int = 200
) -> float:
    """Standard deviation of ``mean_iou`` over draws of the images with replacement (bootstrap)."""
    rng = np.random.default_rng(seed)
    images = len(tallies)
    drawn = [mean_iou(tallies[rng.integers(0, images, images)]) for _ in range(draws)]
    return float(np.std(drawn))
