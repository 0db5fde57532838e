"""Attention maps and masks of images as one sheet of panels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from dino_infer.attention.maps import MASS, AttentionMaps, grid_masks, upsampled
from dino_infer.drawing.overlays import COLORMAP, heatmap, mask_overlay, outlined

PANEL_PIXELS = 288  # the width of a panel with the gap beside it
GAP_PIXELS = 4
TITLE_PIXELS = 24
FONT_PIXELS = 15
LABEL_PIXELS = 60  # the label beside the masks has three lines, so its row is at least as high
SHARP_ENLARGEMENT = 3  # from here on smoothing would show as blur


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
    rows = []
    for item in items:
        rows.append(_heat_row(item, colormap))
        if masks:
            rows.append(_mask_row(item, mass))
    return Image.fromarray(np.concatenate(rows))


def panel_row(
    pictures: Sequence[UInt8[np.ndarray, "_height _width 3"]], *, titles: Sequence[str] = ()
) -> UInt8[np.ndarray, "height width 3"]:
    """Pictures side by side on white, each with its title above; all are made equally wide.

    Args:
        pictures: RGB of any sizes.
        titles: One for each picture; without any, no room is left for them.
    """
    top = TITLE_PIXELS if titles else 0
    panels = [_panel(picture) for picture in pictures]
    height = top + max(panel.height for panel in panels) + GAP_PIXELS
    row = Image.new("RGB", (len(panels) * PANEL_PIXELS, height), "white")
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(FONT_PIXELS)
    for i, panel in enumerate(panels):
        row.paste(panel, (i * PANEL_PIXELS + GAP_PIXELS // 2, top))
    for i, title in enumerate(titles):
        middle = (i * PANEL_PIXELS + PANEL_PIXELS // 2, top // 2)
        draw.text(middle, title, fill="black", font=font, anchor="mm")
    return np.asarray(row)


def heat_panel(
    values: Float[np.ndarray, "rows columns"],
    *,
    height: int,
    width: int,
    colormap: str = COLORMAP,
) -> UInt8[np.ndarray, "height width 3"]:
    """A map as colours, each of its values a block of pixels."""
    colors = heatmap(values, colormap=colormap).transpose(2, 0, 1)
    return upsampled(colors, height, width).transpose(1, 2, 0)


def marked_picture(item: AttentionMaps) -> UInt8[np.ndarray, "height width 3"]:
    """Return the network's input as a picture, with the query patch framed if there is one."""
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


def _heat_row(item: AttentionMaps, colormap: str) -> UInt8[np.ndarray, "height width 3"]:
    height, width = item.picture.shape[:2]
    maps = _maps(item)
    panels = [
        heat_panel(values, height=height, width=width, colormap=colormap)
        for values in maps.values()
    ]
    return panel_row([marked_picture(item), *panels], titles=["image", *maps])


def _mask_row(item: AttentionMaps, mass: float) -> UInt8[np.ndarray, "height width 3"]:
    masks = [
        mask_overlay(item.picture, grid_masks(values, mass)) for values in _maps(item).values()
    ]
    panels = panel_row(masks)
    height, width = max(LABEL_PIXELS, len(panels)), PANEL_PIXELS + panels.shape[1]
    row = Image.new("RGB", (width, height), "white")
    row.paste(Image.fromarray(panels), (PANEL_PIXELS, 0))
    ImageDraw.Draw(row).text(
        (PANEL_PIXELS - FONT_PIXELS, height // 2),
        f"patches with\n{100 * mass:.0f} % of the\nattention",
        fill="black",
        font=ImageFont.load_default(FONT_PIXELS),
        anchor="rm",
        align="right",
    )
    return np.asarray(row)


def _panel(picture: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    height, width = picture.shape[:2]
    shown = PANEL_PIXELS - GAP_PIXELS
    size = (shown, max(1, round(shown * height / width)))
    tiny = SHARP_ENLARGEMENT * width <= PANEL_PIXELS
    resample = Image.Resampling.NEAREST if tiny else Image.Resampling.HAMMING
    return Image.fromarray(picture).resize(size, resample)
