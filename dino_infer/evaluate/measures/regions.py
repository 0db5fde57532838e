"""Agreement of the mask or the boxes found in an image with those that are annotated."""

import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped

BETA_SQUARED = 0.3
"""Weight of recall against precision in papers on saliency."""
THRESHOLDS = np.arange(255) / 255
LOCATED = 0.5
"""Intersection over union from which on a box is that of an object."""


def intersection_over_union(
    mask: Bool[np.ndarray, "height width"],
    truth: Bool[np.ndarray, "height width"],
    *,
    valid: Bool[np.ndarray, "height width"] | None = None,
) -> float:
    """Pixels in both masks as a share of those in either; 1 where both are empty.

    Args:
        mask: Mask that was found.
        truth: Mask that is annotated.
        valid: Pixels that count; all of them by default.
    """
    mask, truth = _counted(mask, valid), _counted(truth, valid)
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def pixel_accuracy(
    mask: Bool[np.ndarray, "height width"],
    truth: Bool[np.ndarray, "height width"],
    *,
    valid: Bool[np.ndarray, "height width"] | None = None,
) -> float:
    """Share of the pixels where two masks agree; as ``intersection_over_union``."""
    return float((_counted(mask, valid) == _counted(truth, valid)).mean())


def f_measures(
    scores: Shaped[np.ndarray, "height width"],
    truth: Bool[np.ndarray, "height width"],
    *,
    valid: Bool[np.ndarray, "height width"] | None = None,
    beta_squared: float = BETA_SQUARED,
) -> Float64[np.ndarray, " thresholds"]:
    """F-measure of the pixels above each of ``THRESHOLDS``: that of a mask is the same at all.

    The largest of the means over images is the max F of a method. Nothing found has precision 1.

    Args:
        scores: Numbers from 0 to 1, or a mask.
        truth: Mask that is annotated.
        valid: Pixels that count; all of them by default.
        beta_squared: Weight of recall against precision.

    Source: Achanta et al. 2009, https://doi.org/10.1109/CVPR.2009.5206596, equation 2.
    """
    truth, scores = _counted(truth, valid), _counted(scores, valid).astype(np.float64)
    # A number of n is above the first n thresholds.
    levels = np.searchsorted(THRESHOLDS, scores)
    found = _above(levels)
    right = _above(levels[truth])
    precision = np.where(found > 0, right / np.maximum(found, 1), 1.0)
    recall = right / truth.sum() if truth.any() else np.ones(len(right))
    below = beta_squared * precision + recall
    measures: np.ndarray = (1 + beta_squared) * precision * recall / np.where(below > 0, below, 1.0)
    return measures


def box_overlaps(
    boxes: Float[np.ndarray, "boxes 4"], truths: Float[np.ndarray, "truths 4"]
) -> Float64[np.ndarray, "boxes truths"]:
    """Intersection over union of boxes with annotated ones.

    Args:
        boxes: x0, y0, x1, y1 in pixels; the right and bottom edges are exclusive.
        truths: Likewise.
    """
    low = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], truths[None, :, 2:])
    shared = (high - low).clip(min=0).prod(axis=-1)
    union = _areas(boxes)[:, None] + _areas(truths) - shared
    overlaps: np.ndarray = np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)
    return overlaps


def is_located(boxes: Float[np.ndarray, "boxes 4"], truths: Float[np.ndarray, "truths 4"]) -> bool:
    """True if a box is that of any annotated object; its mean over images is CorLoc."""
    return bool((box_overlaps(boxes, truths) >= LOCATED).any())


def located_share(
    boxes: Float[np.ndarray, "boxes 4"], truths: Float[np.ndarray, "truths 4"]
) -> float:
    """Share of the annotated objects that one of the boxes is of."""
    return float((box_overlaps(boxes, truths) >= LOCATED).any(axis=0).mean())


def _counted(
    values: Shaped[np.ndarray, "height width"], valid: Bool[np.ndarray, "height width"] | None
) -> Shaped[np.ndarray, " pixels"]:
    return values.ravel() if valid is None else values[valid]


def _above(levels: Shaped[np.ndarray, " pixels"]) -> Float64[np.ndarray, " thresholds"]:
    """Number of pixels that are above each threshold."""
    counts = np.bincount(levels, minlength=len(THRESHOLDS) + 1)
    above: np.ndarray = counts[::-1].cumsum()[::-1][1:].astype(np.float64)
    return above


def _areas(boxes: Float[np.ndarray, "boxes 4"]) -> Float64[np.ndarray, " boxes"]:
    areas: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).astype(np.float64)
    return areas
