"""Attention maps and masks as pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from dino_infer.attention import MASS, AttentionMaps, mass_mask, upsampled

COLORMAP = "inferno"
PANEL_INCHES = 2.0
DPI = 120
TINT = (255, 96, 16)  # orange is rare in photos and stands out from inferno's neighbours
OUTLINE = (255, 255, 255)


def heatmap(
    values: Float[np.ndarray, "rows columns"], *, colormap: str = COLORMAP
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Values as colours, from the darkest for the lowest to the brightest for the highest."""
    from matplotlib import colormaps

    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / (high - low) if high > low else np.zeros_like(values)
    colors: np.ndarray = colormaps[colormap](scaled, bytes=True)[..., :3]
    return np.ascontiguousarray(colors)


def heat_overlay(
    picture: UInt8[np.ndarray, "height width 3"],
    values: Float[np.ndarray, "rows columns"],
    *,
    opacity: float = 0.6,
) -> UInt8[np.ndarray, "height width 3"]:
    """A heat map laid over the picture it belongs to, smoothed to the picture's size.

    Args:
        picture: What the network saw.
        values: One value a patch.
        opacity: Of the heat map, from 0 to 1.
    """
    height, width = picture.shape[:2]
    colors = Image.fromarray(heatmap(values)).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(Image.blend(Image.fromarray(picture), colors, opacity))


def mask_overlay(
    picture: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "rows columns"],
    *,
    opacity: float = 0.45,
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture with the patches of a mask tinted and outlined, and the rest in grey.

    Args:
        picture: What the network saw; its sides are multiples of the patch.
        mask: True for patches to show.
        opacity: Of the tint, from 0 to 1.
    """
    inside = upsampled(mask, picture.shape[0] // mask.shape[0])
    grey = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
    tinted = picture * (1 - opacity) + np.array(TINT) * opacity
    mixed = np.where(inside[..., None], tinted, 0.5 * grey + 64).round().astype(np.uint8)
    mixed[_border(inside)] = OUTLINE
    return mixed


def attention_picture(
    items: Sequence[AttentionMaps], *, masks: bool = True, mass: float = MASS
) -> Image.Image:
    """A sheet with a row for each image: the image, the mean over heads, and every head.

    Args:
        items: Images with the same number of heads.
        masks: Add a second row with the patches that hold ``mass`` of the attention.
        mass: The share that the items' masks were made with.

    Raises:
        ValueError: No item, or items with different numbers of heads.
    """
    counts = {len(item.heads) for item in items}
    if len(counts) != 1:
        raise ValueError(f"items must have the same number of heads, got {sorted(counts)}")
    rows = [panels for item in items for panels in _panels(item, masks=masks, mass=mass)]
    heights = [item.picture.shape[0] / item.picture.shape[1] for item in items]
    ratios = [height for height in heights for _ in range(1 + masks)]
    figure, axes = _figure(ratios, columns=len(rows[0]))
    for row_axes, row in zip(axes, rows, strict=True):
        for axis, (title, panel) in zip(row_axes, row, strict=True):
            axis.set_axis_off()
            if panel is not None:
                axis.imshow(panel, interpolation="nearest", aspect="equal")
                axis.set_title(title, fontsize=8, pad=3)
    return _rendered(figure)


def _panels(
    item: AttentionMaps, *, masks: bool, mass: float
) -> list[list[tuple[str, UInt8[np.ndarray, "_height _width 3"] | None]]]:
    """Rows of titled panels for one image; None leaves a place empty."""
    patch = item.picture.shape[0] // item.heads.shape[1]
    mean = item.heads.mean(axis=0)
    maps = [("mean", mean), *((f"head {i}", head) for i, head in enumerate(item.heads))]
    first = [("image", item.picture), *((t, upsampled_colors(m, patch)) for t, m in maps)]
    if not masks:
        return [first]
    share = f"{100 * mass:.0f} % of the mass"
    chosen = [_mean_mask(mean, mass), *item.masks]
    seconds = [mask_overlay(item.picture, mask) for mask in chosen]
    return [first, [("", None), (share, seconds[0]), *(("", panel) for panel in seconds[1:])]]


def upsampled_colors(
    values: Float[np.ndarray, "rows columns"], patch_size: int
) -> UInt8[np.ndarray, "height width 3"]:
    """A heat map with each patch as a square of pixels."""
    return upsampled(heatmap(values).transpose(2, 0, 1), patch_size).transpose(1, 2, 0)


def _mean_mask(
    mean: Float[np.ndarray, "rows columns"], mass: float
) -> Bool[np.ndarray, "rows columns"]:
    import torch

    return mass_mask(torch.from_numpy(mean.ravel()), mass=mass).numpy().reshape(mean.shape)


def _border(inside: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels of the mask that touch its outside; the frame of the picture does not count."""
    padded = np.pad(inside, 1, mode="edge")
    neighbors = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~neighbors


def _figure(ratios: Sequence[float], *, columns: int) -> tuple[Any, Any]:
    """A figure with an axis for each panel; no pyplot, so nothing is global or left open."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title_inches = 0.25
    size = (columns * PANEL_INCHES, sum(r * PANEL_INCHES + title_inches for r in ratios))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    axes = figure.subplots(
        len(ratios), columns, squeeze=False, gridspec_kw={"height_ratios": list(ratios)}
    )
    return figure, axes


def _rendered(figure: Any) -> Image.Image:
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
