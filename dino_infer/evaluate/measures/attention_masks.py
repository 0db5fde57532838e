"""Overlap of attention masks with annotated objects, and the choice of a head."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64

from dino_infer.attention.maps import grid_masks
from dino_infer.evaluate.measures.overlaps import Counts, overlaps


class MaskScores(NamedTuple):
    """Overlap of the attention masks of one image with its objects, at several masses.

    The last mask is that of the mean head.
    """

    iou: Float64[np.ndarray, "masses masks"]
    """Jaccard index, averaged over the objects."""
    best: Float64[np.ndarray, " masses"]
    """Jaccard index of the best head for each object, averaged over the objects."""
    precision: Float64[np.ndarray, "masses masks"]
    """Share of the mask that lies on any object."""
    recall: Float64[np.ndarray, "masses masks"]
    """Share of all objects' pixels that the mask covers."""


def mask_scores(
    heads: Float[np.ndarray, "heads rows columns"], truth: Counts, *, masses: Sequence[float]
) -> MaskScores:
    """Overlap of the masks of attention maps with the objects of an image.

    Args:
        heads: Attention of each head to each patch.
        truth: Ground truth, counted by patches.
        masses: Shares of the attention that masks keep, in (0, 1].
    """
    maps = with_mean(heads)
    found = [overlaps(grid_masks(maps, mass).reshape(len(maps), -1), truth) for mass in masses]
    return MaskScores(
        iou=np.stack([one.iou.mean(axis=1) for one in found]),
        best=np.stack([one.iou[:-1].max(axis=0).mean() for one in found]),
        precision=np.stack([one.precision for one in found]),
        recall=np.stack([one.recall for one in found]),
    )


def heads_of_others(iou: Float64[np.ndarray, "images heads"]) -> Int64[np.ndarray, " images"]:
    """The head for each image that is best, on average, on all other images.

    A single image has no others: it gets the last of the columns.
    """
    if len(iou) < 2:
        return np.full(len(iou), iou.shape[1] - 1)
    chosen: np.ndarray = (iou.sum(axis=0) - iou).argmax(axis=1)
    return chosen


def with_mean(
    heads: Float[np.ndarray, "heads rows columns"],
) -> Float[np.ndarray, "maps rows columns"]:
    """The maps of all heads, and their mean as the last."""
    return np.concatenate([heads, heads.mean(axis=0, keepdims=True)])
