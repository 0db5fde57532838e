"""Masks as annotations in the format of the COCO data set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool


def coco_annotations(
    masks: Sequence[Bool[np.ndarray, "height width"]],
    *,
    image_id: int,
    category_id: int = 1,
    first_id: int = 1,
) -> list[dict[str, Any]]:
    """Annotations of the masks of one image, ready for JSON; empty masks are left out.

    The segmentation is an uncompressed run-length code: the lengths of alternate stretches of
    background and object, column by column, from the top left.

    Args:
        masks: One mask an object, each of the size of the image.
        image_id: The image's ``id`` in the file.
        category_id: Category of all of them.
        first_id: ``id`` of the first annotation; the others follow.

    Source: https://cocodataset.org/#format-data.
    """
    annotations: list[dict[str, Any]] = []
    for mask in masks:
        if not mask.any():
            continue
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        x, y = int(columns[0]), int(rows[0])
        annotations.append(
            {
                "id": first_id + len(annotations),
                "image_id": image_id,
                "category_id": category_id,
                "iscrowd": 0,
                "area": int(mask.sum()),
                "bbox": [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1],
                "segmentation": {"size": list(mask.shape), "counts": _runs(mask)},
            }
        )
    return annotations


def _runs(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """Lengths of the stretches of a mask column by column; the first is background, maybe 0."""
    order = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(order)) + 1
    lengths = np.diff([0, *ends.tolist(), order.size])
    return [0, *lengths.tolist()] if order[0] else lengths.tolist()
