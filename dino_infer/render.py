"""Attention maps and masks of images as one sheet of panels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dino_infer.attention import MASS, AttentionMaps, grid_masks, upsampled
from dino_infer.overlays import COLORMAP, heatmap, mask_overlay, outlined

PANEL_INCHES = 2.4
TITLE_INCHES = 0.2
LABEL_INCHES = 0.55  # the least height of a panel: the label beside the masks has three lines
GAP_INCHES = 0.04
DPI = 120


def attention_picture(
    items: Sequence[AttentionMaps],
    *,
    masks: bool = True,
    mass: float = MASS,
    colormap: str = COLORMAP,
) -> Image.Image:
    """A sheet with a row for each image: the image, the mean over heads, and every head.

    The patch that asks is framed in the image. A single head has no mean beside it.

    Args:
        items: Images with the same number of heads.
        masks: Add a second row with the patches that hold ``mass`` of the attention.
        mass: The share that the items' masks were made with.
        colormap: Name of a colour map of matplotlib.

    Raises:
        ValueError: No item, items with different numbers of heads, or an unknown colour map.
    """
    counts = {len(item.heads) for item in items}
    if len(counts) != 1:
        raise ValueError(f"items must have the same number of heads, got {sorted(counts)}")
    columns = 1 + len(_maps(items[0]))
    sides = [item.picture.shape[0] / item.picture.shape[1] for item in items]
    figure, axes = _figure(sides, columns=columns, rows=1 + masks)
    for i, item in enumerate(items):
        _draw_heat(axes[i * (1 + masks)], item, colormap)
        if masks:
            _draw_masks(axes[i * (1 + masks) + 1], item, mass)
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def marked_picture(item: AttentionMaps) -> UInt8[np.ndarray, "height width 3"]:
    """What the network saw, with the patch that asks framed if there is one."""
    if item.query is None:
        return item.picture
    rows, columns = item.heads.shape[1:]
    return outlined(item.picture, item.query, grid=(rows, columns))


def _maps(item: AttentionMaps) -> dict[str, np.ndarray]:
    """The maps of one row by title."""
    if len(item.heads) == 1:
        return {"attention": item.heads[0]}
    return {"mean": item.heads.mean(axis=0)} | {
        f"head {i}": values for i, values in enumerate(item.heads)
    }


def _draw_heat(axes: Any, item: AttentionMaps, colormap: str) -> None:
    height, width = item.picture.shape[:2]
    _show(axes[0], marked_picture(item), title="image")
    for axis, (title, values) in zip(axes[1:], _maps(item).items(), strict=True):
        colors = upsampled(heatmap(values, colormap=colormap).transpose(2, 0, 1), height, width)
        _show(axis, colors.transpose(1, 2, 0), title=title)


def _draw_masks(axes: Any, item: AttentionMaps, mass: float) -> None:
    label = f"patches with\n{100 * mass:.0f} % of the\nattention"
    axes[0].text(0.95, 0.5, label, ha="right", va="center", transform=axes[0].transAxes)
    for axis, values in zip(axes[1:], _maps(item).values(), strict=True):
        _show(axis, mask_overlay(item.picture, grid_masks(values, mass)))


def _show(axis: Any, picture: UInt8[np.ndarray, "height width 3"], *, title: str = "") -> None:
    axis.imshow(picture, interpolation="antialiased")
    if title:
        axis.set_title(title, fontsize=9, pad=3)


def _figure(sides: Sequence[float], *, columns: int, rows: int) -> tuple[Any, list[list[Any]]]:
    """A figure with ``rows`` rows of empty axes for each item, the first with room for titles.

    Every axis gets its place in inches: a layout engine takes longer than the drawing. No pyplot,
    so nothing is global or left open.

    Args:
        sides: Height divided by width of each item's picture.
        columns: Panels in a row.
        rows: Rows of an item.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panel = PANEL_INCHES - GAP_INCHES
    heights = [max(panel * side, LABEL_INCHES) for side in sides]
    width = columns * PANEL_INCHES
    bottom = height = sum(TITLE_INCHES + rows * (GAP_INCHES + panel) for panel in heights)
    figure: Any = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = []
    for panel_height in heights:
        bottom -= TITLE_INCHES
        for _ in range(rows):
            bottom -= panel_height + GAP_INCHES
            lefts = [GAP_INCHES / 2 + column * PANEL_INCHES for column in range(columns)]
            size = (panel / width, panel_height / height)
            axes.append([figure.add_axes((x / width, bottom / height, *size)) for x in lefts])
    for axis in figure.axes:
        axis.set_axis_off()
    return figure, axes
