"""J and F of masks in videos, as DAVIS 2017 defines them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

TOLERANCE = 0.008
"""Distance between two outlines that still counts as a match, as a share of the diagonal."""

RECALLED = 0.5
"""A frame counts as recalled above this."""

Mask = Bool[np.ndarray, "height width"]


class Course(NamedTuple):
    """Summary of a measure over the frames of one object."""

    mean: float
    recall: float
    """Share of the frames above ``RECALLED``."""
    decay: float
    """Mean of the first quarter of the frames less that of the last; above 0 it got worse."""


def region_similarity(truth: Mask, found: Mask, *, void: Mask | None = None) -> float:
    """J: intersection over union of two masks, and 1 where both are empty.

    Args:
        truth: Pixels of the object.
        found: Pixels that were found.
        void: Pixels that do not count.

    Source: Perazzi et al. 2016, https://doi.org/10.1109/CVPR.2016.85, section 4.1.
    """
    if void is not None:
        truth, found = truth & ~void, found & ~void
    union = int((truth | found).sum())
    return int((truth & found).sum()) / union if union else 1.0


def boundary_accuracy(
    truth: Mask, found: Mask, *, void: Mask | None = None, tolerance: float = TOLERANCE
) -> float:
    """F: how well the outlines of two masks match, from 0 to 1; 1 where neither has one.

    Precision is the share of the found outline that lies within a disk of the true one, recall the
    opposite, and F their harmonic mean.

    Args:
        truth: Pixels of the object.
        found: Pixels that were found.
        void: Pixels that do not count.
        tolerance: Radius of the disk as a share of the diagonal; pixels are rounded up.

    Source: Perazzi et al. 2016, https://doi.org/10.1109/CVPR.2016.85, section 4.2.
    """
    if void is not None:
        truth, found = truth & ~void, found & ~void
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    edges = outline(truth), outline(found)
    if not edges[0].any() or not edges[1].any():
        return float(edges[0].any() == edges[1].any())
    recall, precision = (
        float((one & dilated(other, radius)).sum() / one.sum())
        for one, other in (edges, edges[::-1])
    )
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


def outline(mask: Mask) -> Mask:
    """Pixels that differ from the one to the right, the one below, or the one below right.

    The frame of the picture is no outline.
    """
    beyond = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    edge: Mask = (mask ^ beyond[:-1, 1:]) | (mask ^ beyond[1:, :-1]) | (mask ^ beyond[1:, 1:])
    return edge


def dilated(mask: Mask, radius: int) -> Mask:
    """Pixels within a disk around any pixel of a mask."""
    height, width = mask.shape
    # Differences of running sums tell in one step whether a stretch of a row holds any pixel.
    sums = np.pad(np.cumsum(mask, axis=1, dtype=np.int32), ((0, 0), (radius + 1, 0)))
    sums = np.pad(sums, ((0, 0), (0, radius)), mode="edge")
    result = np.zeros_like(mask)
    for down in range(max(-radius, 1 - height), min(radius, height - 1) + 1):
        half = math.isqrt(radius**2 - down**2)
        right, left = radius + 1 + half, radius - half
        touched = sums[:, right : right + width] != sums[:, left : left + width]
        if down < 0:
            result[:down] |= touched[-down:]
        else:
            result[down:] |= touched[: height - down]
    return result


def course(values: Sequence[float]) -> Course:
    """Mean, recall and decay of a measure over the frames of one object.

    Raises:
        ValueError: There is no frame.

    Source: Perazzi et al. 2016, section 4; quarters as in the code of DAVIS 2017, where they share
    their border frames.
    """
    if not len(values):
        raise ValueError("expected at least one frame, got none")
    frames = np.asarray(values, np.float64)
    bounds = np.round(np.linspace(1, len(frames), 5) + 1e-10).astype(int) - 1
    early, late = frames[: bounds[1] + 1], frames[bounds[3] :]
    return Course(
        mean=float(frames.mean()),
        recall=float((frames > RECALLED).mean()),
        decay=float(early.mean() - late.mean()),
    )
