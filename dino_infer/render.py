"""Attention maps and masks as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from dino_infer.attention import MASS, AttentionMaps, mass_mask, upsampled
from dino_infer.files import whole_file

COLORMAP = "inferno"
PANEL_INCHES = 2.4
TITLE_INCHES = 0.25
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
    mixed[_border(inside, thickness=max(1, picture.shape[1] // 240))] = OUTLINE
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
    columns = 2 + counts.pop()
    sides = [item.picture.shape[0] / item.picture.shape[1] for item in items]
    ratios = [side for side in sides for _ in range(1 + masks)]
    figure, axes = _figure(ratios, columns=columns, titled_rows=len(items))
    for i, item in enumerate(items):
        _draw_heat(axes[i * (1 + masks)], item)
        if masks:
            _draw_masks(axes[i * (1 + masks) + 1], item, mass)
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def write_attention(path: Path, maps: AttentionMaps, *, mass: float = MASS) -> None:
    """Write the sheet of one image as PNG and, beside it, its arrays as ``.npz``.

    Args:
        path: The picture to create or replace, ending in ``.png``; folders are made.
        maps: What to write; the arrays are ``attention`` and ``masks``.
        mass: The share that the masks were made with.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        attention_picture([maps], mass=mass).save(temporary)
    with whole_file(path.with_suffix(".npz")) as temporary:
        np.savez_compressed(temporary, attention=maps.heads, masks=maps.masks)


def _draw_heat(axes: Any, item: AttentionMaps) -> None:
    patch = item.picture.shape[0] // item.heads.shape[1]
    _show(axes[0], item.picture, title="image")
    titles = ["mean", *(f"head {i}" for i in range(len(item.heads)))]
    maps = [item.heads.mean(axis=0), *item.heads]
    for axis, title, values in zip(axes[1:], titles, maps, strict=True):
        _show(axis, upsampled_colors(values, patch), title=title)


def _draw_masks(axes: Any, item: AttentionMaps, mass: float) -> None:
    label = f"patches with\n{100 * mass:.0f} % of the\nattention"
    axes[0].text(0.95, 0.5, label, ha="right", va="center", transform=axes[0].transAxes)
    masks = [_mean_mask(item.heads.mean(axis=0), mass), *item.masks]
    for axis, mask in zip(axes[1:], masks, strict=True):
        _show(axis, mask_overlay(item.picture, mask))


def _show(axis: Any, picture: UInt8[np.ndarray, "height width 3"], *, title: str = "") -> None:
    axis.imshow(picture, interpolation="antialiased")
    if title:
        axis.set_title(title, fontsize=9, pad=3)


def upsampled_colors(
    values: Float[np.ndarray, "rows columns"], patch_size: int
) -> UInt8[np.ndarray, "height width 3"]:
    """A heat map with each patch as a square of pixels."""
    colors: np.ndarray = upsampled(heatmap(values).transpose(2, 0, 1), patch_size)
    return colors.transpose(1, 2, 0)


def _mean_mask(
    mean: Float[np.ndarray, "rows columns"], mass: float
) -> Bool[np.ndarray, "rows columns"]:
    import torch

    mask: np.ndarray = mass_mask(torch.from_numpy(mean.ravel()), mass=mass).numpy()
    return mask.reshape(mean.shape)


def _border(
    inside: Bool[np.ndarray, "height width"], *, thickness: int
) -> Bool[np.ndarray, "height width"]:
    """Pixels of the mask near its outside; the frame of the picture does not count."""
    core = inside
    for _ in range(thickness):
        wide = np.pad(core, 1, mode="edge")
        core = core & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    border: np.ndarray = inside & ~core
    return border


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
