"""Attention maps and masks of images as one sheet of panels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dino_infer.attention import MASS, AttentionMaps, grid_masks, upsampled
from dino_infer.overlays import COLORMAP, heatmap, mask_overlay, outlined

PANEL_INCHES = 2.4
TITLE_INCHES = 0.25
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
    ratios = [side for side in sides for _ in range(1 + masks)]
    figure, axes = _figure(ratios, columns=columns, titled_rows=len(items))
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


def _figure(ratios: Sequence[float], *, columns: int, titled_rows: int) -> tuple[Any, Any]:
    """A figure with an empty axis for each panel; no pyplot, so nothing is global or left open."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (columns * PANEL_INCHES, sum(ratios) * PANEL_INCHES + titled_rows * TITLE_INCHES)
    figure: Any = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(len(ratios), columns, squeeze=False, height_ratios=ratios)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes
