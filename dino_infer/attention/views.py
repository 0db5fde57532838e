"""Positions of the network's patches in the original image."""

import math
from typing import NamedTuple

from dino_infer.errors import ImageError
from dino_infer.images.preprocess import Preprocess

MAX_PATCHES = 10_000  # looked at together for a stranger: time grows with their square


class View(NamedTuple):
    """The grid of patches laid over an image, in pixels of the image before any resizing."""

    rows: int
    columns: int
    left: float
    """Edge of the grid; 0 unless the preprocessing crops."""
    top: float
    patch_width: float
    """Width of a patch; rarely an integer, because the image was resized."""
    patch_height: float

    def patch_at(self, x: float, y: float) -> tuple[int, int]:
        """Row and column of the patch that shows a pixel of the image.

        The strip at the right and at the bottom that is narrower than a patch, which the network
        does not see, counts as part of the last patches.

        Raises:
            ValueError: The network did not see that pixel.
        """
        row = math.floor((y - self.top) / self.patch_height)
        column = math.floor((x - self.left) / self.patch_width)
        if not (0 <= row <= self.rows and 0 <= column <= self.columns):
            x0, y0, x1, y1 = self.box(0, 0, self.rows, self.columns)
            raise ValueError(
                f"the pixel must lie in what the network saw, x from {x0} to {x1 - 1} and "
                f"y from {y0} to {y1 - 1}, got x = {x:g}, y = {y:g}"
            )
        return min(row, self.rows - 1), min(column, self.columns - 1)

    def box(self, row0: int, column0: int, row1: int, column1: int) -> tuple[int, int, int, int]:
        """Return x0, y0, x1, y1 in pixels of a range of patches, whose end is exclusive."""
        return (
            round(self.left + column0 * self.patch_width),
            round(self.top + row0 * self.patch_height),
            round(self.left + column1 * self.patch_width),
            round(self.top + row1 * self.patch_height),
        )


def check_patches(view: View, *, path: str) -> None:
    """Refuse a view that would take too long to look at.

    Raises:
        ImageError: It has more than ``MAX_PATCHES`` patches.
    """
    if view.rows * view.columns > MAX_PATCHES:
        reason = (
            f"{view.rows} x {view.columns} patches are more than the {MAX_PATCHES} that are looked "
            "at; choose a lower resolution, or a less elongated part"
        )
        raise ImageError(path, "too_large", reason)


def checked_view(
    height: int, width: int, *, preprocess: Preprocess, patch_size: int, path: str
) -> View:
    """``view_of`` the image of a stranger, after ``check_patches``."""
    view = view_of(height, width, preprocess=preprocess, patch_size=patch_size)
    check_patches(view, path=path)
    return view


def view_of(height: int, width: int, *, preprocess: Preprocess, patch_size: int) -> View:
    """The view that a preprocessing gives of an image.

    Args:
        height: Height of the upright image, in pixels.
        width: Width of the upright image, in pixels.
        preprocess: Preprocessing of the image; with either kind of crop.
        patch_size: Side in pixels of a patch of the network.
    """
    resized = preprocess.resized(height, width)
    sides = resized
    if preprocess.crop == "center":
        size = preprocess.size
        sides = (size, size) if isinstance(size, int) else size
    # Rounded as the crop itself is.
    top, left = (round((whole - side) / 2) for whole, side in zip(resized, sides, strict=True))
    y_scale, x_scale = height / resized[0], width / resized[1]
    return View(
        rows=sides[0] // patch_size,
        columns=sides[1] // patch_size,
        left=left * x_scale,
        top=top * y_scale,
        patch_width=patch_size * x_scale,
        patch_height=patch_size * y_scale,
    )
