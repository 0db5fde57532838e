"""Patch under a click on a shown picture, and the matches to mark."""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

EVERY_CLICK: dict[str, Any] = {"trigger_mode": "multiple"}
"""For events that carry the place of a click. While one is under way, Gradio drops the next
("once"), or runs the first once more in its place ("always_last")."""


def clicked_patch(
    place: object, *, size: tuple[int, int], grid: tuple[int, int]
) -> tuple[int, int]:
    """Row and column of the patch under a click.

    Args:
        place: x and y in pixels of the picture itself, however large the browser draws it and
            wherever in its frame: what ``gr.SelectData.index`` holds. It comes from outside, so
            it may be anything.
        size: Height and width of the picture that was clicked. It must show whole patches only,
            as ``PatchTokens.picture`` does.
        grid: Rows and columns of patches.

    Raises:
        ValueError: It is no place in the picture.
    """
    (height, width), (rows, columns) = size, grid
    match place:
        case [int() | float() as x, int() | float() as y] if 0 <= x < width and 0 <= y < height:
            return math.floor(y * rows / height), math.floor(x * columns / width)
    raise ValueError(f"expected a place in a picture of {width} x {height} pixels, got {place!r}")


def spread_matches(
    similarity: Float[np.ndarray, "rows columns"],
    *,
    count: int,
    radius: int,
    query: tuple[int, int] | None = None,
) -> list[tuple[int, int]]:
    """The most similar patches that are not beside each other, the best first.

    Without a distance they would all lie around the patch that asks, as neighbours are alike.

    Args:
        similarity: Similarity of each patch.
        count: Patches wanted; fewer are returned where the picture has no room for more.
        radius: Rows and columns around the patch that asks, and around every match, that hold no
            other match; 0 leaves out these patches alone.
        query: The patch that asks, where it is in this picture.
    """
    free = np.ones(similarity.shape, dtype=np.bool_)
    if query is not None:
        _take(free, query, radius)
    matches: list[tuple[int, int]] = []
    while len(matches) < count and free.any():
        best = int(np.where(free, similarity, -np.inf).argmax())
        matches.append(divmod(best, similarity.shape[1]))
        _take(free, matches[-1], radius)
    return matches


def _take(free: Bool[np.ndarray, "rows columns"], patch: tuple[int, int], radius: int) -> None:
    """Mark a square of patches as no longer free."""
    rows, columns = (slice(max(0, at - radius), at + radius + 1) for at in patch)
    free[rows, columns] = False
