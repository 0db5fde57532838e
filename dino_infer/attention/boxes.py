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
    reach = 1 if diagonal else 0
    labels = np.zeros(mask.shape, dtype=np.int32)
    above: list[tuple[int, int, int]] = []  # runs of the row before: start, end, label
    joined = [0]  # a label of the same part with a smaller number, or itself
    for row, stretches in enumerate(_runs(mask)):
        runs = []
        for start, end in stretches:
            near = [run for run in above if run[0] < end + reach and start < run[1] + reach]
            touching = {_root(joined, label) for *_, label in near}
            label = min(touching, default=len(joined))
            if not touching:
                joined.append(label)
            for other in touching:
                joined[other] = label
            labels[row, start:end] = label
            runs.append((start, end, label))
        above = runs
    # Numbers that other parts took are left out; first patches are in order already.
    roots = np.array([_root(joined, label) for label in range(len(joined))])
    numbered: np.ndarray = np.unique(roots, return_inverse=True)[1].astype(np.int32)[labels]
    return numbered


def _runs(mask: Bool[np.ndarray, "rows columns"]) -> list[list[tuple[int, int]]]:
    """Starts and ends of the unbroken stretches of each row."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    of_row, starts = (places.tolist() for places in np.nonzero(edges == 1))
    ends = np.nonzero(edges == -1)[1].tolist()
    runs: list[list[tuple[int, int]]] = [[] for _ in mask]
    for row, start, end in zip(of_row, starts, ends, strict=True):
        runs[row].append((start, end))
    return runs


def _root(joined: list[int], label: int) -> int:
    while joined[label] != label:
        label = joined[label]
    return label


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
        view: Place of the patches in the image.
        min_patches: Smaller parts are left out.
        diagonal: Neighbourhood as in ``components``.

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
