"""Pictures of attention from what is there: moving a slider runs no network."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from dino_app.demo.models import Look
from dino_app.demo.tabs.mask_pictures import contoured, smooth_mask, view_of_picture
from dino_infer.attention.boxes import Box, components, mask_boxes
from dino_infer.attention.maps import chosen_maps, grid_masks
from dino_infer.drawing.overlays import (
    box_overlay,
    head_colors,
    heat_overlay,
    mask_overlay,
)

Style = Literal["Heat map", "Mask", "All heads"]
COLORS: Style = "All heads"
STYLES: tuple[Style, ...] = ("Heat map", "Mask", COLORS)
COLORMAPS = ("inferno", "viridis", "magma", "turbo", "gray")
MEAN, MAX = "Mean", "Maximum"
THUMBNAIL = 180  # pixels of the shorter side
MOST_PIECES = 5  # that an outline is drawn around; more are a pattern, not things


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Options for drawing the attention in one picture."""

    style: Style = "Heat map"
    head: str = MEAN
    """``MEAN``, ``MAX`` or "Head 1" ..., as ``head_names`` gives them."""
    layer: int = -1
    """Block, from 0; negative counts from the last."""
    mass: float = 0.6
    """Share of the attention inside the outline or mask, in (0, 1]."""
    opacity: float = 0.6
    colormap: str = "inferno"
    boxes: bool = False
    """Draw a box around each connected part of the mask."""


def head_names(heads: int) -> list[str]:
    """Names of the maps to choose from: two summaries and every head by itself."""
    return [MEAN, MAX, *(f"Head {i}" for i in range(1, heads + 1))]


def overlay(look: Look, drawing: Drawing) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with one map, its mask, or all heads laid over it."""
    return _drawn(look.shown, layer_heads(look, drawing), drawing)


def head_gallery(
    look: Look, drawing: Drawing
) -> list[tuple[UInt8[np.ndarray, "height width 3"], str]]:
    """Small pictures of what each name of ``head_names`` looks at, and of all heads in colours."""
    heads = layer_heads(look, drawing)
    small = _shrunk(look.shown)
    style: Style = "Mask" if drawing.style == "Mask" else "Heat map"
    pictures = [
        (_drawn(small, heads, _replaced(drawing, style=style, head=name)), name)
        for name in head_names(len(heads))
    ]
    return [*pictures, (_drawn(small, heads, _replaced(drawing, style=COLORS)), COLORS)]


def boxes(look: Look, drawing: Drawing) -> list[Box]:
    """Boxes of the connected parts of the mask, in pixels of the upload, the best first."""
    values = _chosen(layer_heads(look, drawing), drawing.head)
    return mask_boxes(values, grid_masks(values, drawing.mass), look.view)


def mask_text(look: Look, drawing: Drawing) -> str:
    """Meaning of the outline in this picture, in a sentence."""
    values = _chosen(layer_heads(look, drawing), drawing.head)
    mask = grid_masks(values, drawing.mass)
    found = boxes(look, drawing)
    parts = "one place" if len(found) == 1 else f"{len(found)} places"
    drawn = "" if drawing.style != STYLES[0] or has_outline(mask) else " Too many for an outline."
    return (
        f"{drawing.head}: {drawing.mass:.0%} of its attention is on {mask.mean():.0%} of the "
        f"picture, in {parts}; the strongest holds {found[0].mass:.0%}.{drawn}"
    )


def has_outline(mask: Bool[np.ndarray, "rows columns"]) -> bool:
    """True if a mask is one to five connected pieces."""
    return 1 <= int(components(mask).max()) <= MOST_PIECES


def layer_heads(look: Look, drawing: Drawing) -> Float32[np.ndarray, "heads rows columns"]:
    """The maps of the block that is drawn."""
    layers = look.attention
    # A network with fewer blocks may have been chosen since the slider was moved.
    layer = min(drawing.layer, len(layers) - 1)
    heads: np.ndarray = layers[layer]
    return heads


def _chosen(
    heads: Float[np.ndarray, "heads rows columns"], name: str
) -> Float[np.ndarray, "rows columns"]:
    if name in (MEAN, MAX):
        kind: Literal["mean", "max"] = "mean" if name == MEAN else "max"
        return chosen_maps(heads, kind)[kind]
    names = head_names(len(heads))
    if name not in names:
        raise ValueError(f"head must be one of {names}, got {name!r}")
    number = names.index(name) - 2
    return chosen_maps(heads, number)[number]


def _drawn(
    picture: UInt8[np.ndarray, "height width 3"],
    heads: Float[np.ndarray, "heads rows columns"],
    drawing: Drawing,
) -> UInt8[np.ndarray, "height width 3"]:
    values = _chosen(heads, drawing.head)
    mask = grid_masks(values, drawing.mass)
    if drawing.style == COLORS:
        drawn = head_colors(picture, heads, mass=drawing.mass, opacity=drawing.opacity)
    elif drawing.style == "Mask":
        drawn = mask_overlay(picture, mask, opacity=drawing.opacity)
    else:
        drawn = heat_overlay(picture, values, opacity=drawing.opacity, colormap=drawing.colormap)
        if min(picture.shape[:2]) > THUMBNAIL and has_outline(mask):
            drawn = contoured(drawn, smooth_mask(mask, *picture.shape[:2]))
    if not drawing.boxes:
        return drawn
    return box_overlay(drawn, mask_boxes(values, mask, view_of_picture(picture, mask.shape)))


def _shrunk(
    picture: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "small_height small_width 3"]:
    ratio = min(1.0, THUMBNAIL / min(picture.shape[:2]))
    height, width = (max(1, round(side * ratio)) for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def _replaced(drawing: Drawing, **changes: object) -> Drawing:
    return Drawing(**(vars(drawing) | {"boxes": False} | changes))
