"""Overlap of predicted masks with the objects of the ground truth; void pixels do not count."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, Integer

from dino_infer.attention.views import View
from dino_infer.evaluate.data.mask_files import VOID

ELLIPSE = "centred ellipse"
"""Name of the answer without a model."""
ELLIPSE_SHARE = 0.6


class Counts(NamedTuple):
    """Pixels of one image's ground truth in each of its parts, such as the patches of a network.

    A mask made of whole parts is compared with the ground truth through these counts, exactly as
    pixel by pixel.
    """

    inside: Int64[np.ndarray, "objects parts"]
    """Pixels of each object."""
    valid: Int64[np.ndarray, " parts"]
    """Pixels that are not void."""


class Overlaps(NamedTuple):
    """Overlap of masks with ground truth, from 0 to 1."""

    iou: Float64[np.ndarray, "masks objects"]
    """Jaccard index with each object."""
    precision: Float64[np.ndarray, " masks"]
    """Share of the mask that lies on any object; 0 for a mask without a pixel."""
    recall: Float64[np.ndarray, " masks"]
    """Share of all objects' pixels that the mask covers."""


def patch_of_pixels(view: View, height: int, width: int) -> Int64[np.ndarray, "{height} {width}"]:
    """Number, row by row, of the patch that shows the centre of each pixel of an image.

    A strip at an edge that the network did not see belongs to the patches beside it.
    """
    rows = (np.arange(height) + 0.5 - view.top) // view.patch_height
    columns = (np.arange(width) + 0.5 - view.left) // view.patch_width
    row = rows.clip(0, view.rows - 1).astype(np.int64)
    column = columns.clip(0, view.columns - 1).astype(np.int64)
    return row[:, None] * view.columns + column


def counts(
    labels: Int32[np.ndarray, "height width"],
    parts: Integer[np.ndarray, "height width"],
    *,
    parts_number: int,
) -> Counts:
    """Count the pixels of each object in each part.

    Args:
        labels: 0 is background, ``VOID`` is void, and any other number is an object.
        parts: Part of each pixel, from 0.
        parts_number: Number of parts; some may have no pixel.
    """
    numbers = np.unique(labels[labels > 0])
    object_of = np.where(labels > 0, np.searchsorted(numbers, labels), len(numbers))
    valid = labels != VOID
    cells = (object_of * parts_number + parts)[valid]
    table = np.bincount(cells, minlength=(len(numbers) + 1) * parts_number)
    table = table.reshape(len(numbers) + 1, parts_number)
    return Counts(table[:-1], table.sum(axis=0))


def overlaps(masks: Bool[np.ndarray, "masks parts"], truth: Counts) -> Overlaps:
    """Overlap of masks with each object of an image."""
    chosen = masks.astype(np.float64)
    shared = chosen @ truth.inside.T
    area, sizes = chosen @ truth.valid, truth.inside.sum(axis=1)
    union = area[:, None] + sizes - shared
    return Overlaps(
        iou=shared / np.maximum(union, 1),
        precision=shared.sum(axis=1) / np.maximum(area, 1),
        recall=shared.sum(axis=1) / max(sizes.sum(), 1),
    )


def centred_ellipse(
    height: int, width: int, *, share: float = ELLIPSE_SHARE
) -> Bool[np.ndarray, "{height} {width}"]:
    """The answer without a model: an ellipse in the middle of the frame.

    Args:
        height: Height of the frame, in pixels.
        width: Width of the frame, in pixels.
        share: Axes of the ellipse as a share of the frame's sides.
    """
    y = (2 * np.arange(height) + 1 - height) / (share * height)
    x = (2 * np.arange(width) + 1 - width) / (share * width)
    ellipse: np.ndarray = y[:, None] ** 2 + x**2 <= 1
    return ellipse
