"""Boxes around connected patches, in pixels of the image."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int32

from dino_infer.attention.views import View


class Box(NamedTuple):
    """A rectangle in pixels of the image; the right and bottom edges are exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int
    mass: float
    """Share of the whole map's attention that the patches of the component hold, from 0 to 1."""


def components(
    mask: Bool[np.ndarray, "rows columns"], *, diagonal: bool = True
) -> Int32[np.ndarray, "rows columns"]:
    """The connected parts of a mask.

    Args:
        mask: True for patches that count.
        diagonal: Patches that touch at a corner only are connected (8 neighbours), else not (4).

    Returns:
        0 outside the mask, and 1, 2 ... for the parts in the order of their first patches, row by
        row.
    """
    steps = [(0, 1), (0, -1), (1, 0), (-1, 0)]
    if diagonal:
        steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    unseen = set(zip(*(part.tolist() for part in np.nonzero(mask)), strict=True))
    labels = np.zeros(mask.shape, dtype=np.int32)
    count = 0
    for first in sorted(unseen):
        if first not in unseen:
            continue
        count += 1
        unseen.remove(first)
        pending = [first]
        while pending:
            row, column = pending.pop()
            labels[row, column] = count
            near = {(row + down, column + right) for down, right in steps} & unseen
            unseen -= near
            pending += near
    return labels


def mask_boxes(
    attention: Float[np.ndarray, "rows columns"],
    mask: Bool[np.ndarray, "rows columns"],
    view: View,
    *,
    min_patches: int = 1,
    diagonal: bool = True,
) -> list[Box]:
    """A box around each connected part of a mask, the one with most attention first.

    Args:
        attention: The map that the mask was made from; not negative.
        mask: Patches to enclose.
        view: Where the patches lie in the image.
        min_patches: Smaller parts are left out.
        diagonal: As in ``components``.

    Raises:
        ValueError: The shapes do not agree.
    """
    if not attention.shape == mask.shape == (view.rows, view.columns):
        raise ValueError(
            f"attention, mask and view must have one shape, got {attention.shape}, {mask.shape} "
            f"and {(view.rows, view.columns)}"
        )
    labels = components(mask, diagonal=diagonal)
    whole = float(attention.sum()) or 1.0
    boxes = []
    for label in range(1, labels.max() + 1):
        part = labels == label
        rows, columns = np.nonzero(part)
        if len(rows) >= min_patches:
            corners = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
            place = view.box(*(int(corner) for corner in corners))
            boxes.append(Box(*place, mass=float(attention[part].sum()) / whole))
    return sorted(boxes, key=lambda box: -box.mass)
