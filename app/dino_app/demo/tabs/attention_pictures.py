"""Pictures of attention and objects from what is there: moving a slider runs no network."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image, ImageFilter

from dino_app.demo.models import Look
from dino_infer.attention.boxes import Box, mask_boxes
from dino_infer.attention.maps import chosen_maps, grid_masks, upsampled
from dino_infer.attention.views import View
from dino_infer.choices import ObjectMethod
from dino_infer.drawing.overlays import (
    OUTLINE,
    box_overlay,
    head_colors,
    heat_overlay,
    mask_overlay,
)

Style = Literal["Heat map", "Mask", "All heads", "TokenCut", "LOST", "MaskCut"]
COLORS: Style = "All heads"
OBJECTS: dict[Style, ObjectMethod] = {
    "TokenCut": "tokencut",
    "LOST": "lost",
    "MaskCut": "maskcut",
}
STYLES: tuple[Style, ...] = ("Heat map", "Mask", COLORS, *OBJECTS)
COLORMAPS = ("inferno", "viridis", "magma", "turbo", "gray")
MEAN, MAX = "Mean", "Maximum"
THUMBNAIL = 180  # pixels of the shorter side


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
    """Draw a box around each object or connected part of the mask."""


def head_names(heads: int) -> list[str]:
    """Names of the maps to choose from: two summaries and every head by itself."""
    return [MEAN, MAX, *(f"Head {i}" for i in range(1, heads + 1))]


def overlay(look: Look, drawing: Drawing) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with one map, its mask, all heads, or the objects laid over it."""
    if drawing.style in OBJECTS:
        return _objects_drawn(look, drawing)
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
    """Boxes of the objects or connected parts of the mask, in pixels of the upload, best first."""
    if drawing.style in OBJECTS:
        return [one.box(look.view) for one in look.objects(OBJECTS[drawing.style])]
    values = _chosen(layer_heads(look, drawing), drawing.head)
    return mask_boxes(values, grid_masks(values, drawing.mass), look.view)


def mask_text(look: Look, drawing: Drawing) -> str:
    """Meaning of the outline in this picture, in a sentence."""
    if drawing.style in OBJECTS:
        return _objects_text(look, drawing.style)
    values = _chosen(layer_heads(look, drawing), drawing.head)
    mask = grid_masks(values, drawing.mass)
    found = boxes(look, drawing)
    parts = "one place" if len(found) == 1 else f"{len(found)} places"
    return (
        f"{drawing.head}: {drawing.mass:.0%} of its attention is on {mask.mean():.0%} of the "
        f"picture, in {parts}; the strongest holds {found[0].mass:.0%}."
    )


def _objects_text(look: Look, style: Style) -> str:
    found = look.objects(OBJECTS[style])
    if not found:
        return f"{style} finds no object: all parts of the picture are alike to this network."
    shares = " and ".join(f"{one.mask.mean():.0%}" for one in found)
    number = "one object" if len(found) == 1 else f"{len(found)} objects"
    return f"{style} finds {number}, on {shares} of the picture, without having seen a label."


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
        drawn = _contoured(drawn, mask) if min(picture.shape[:2]) > THUMBNAIL else drawn
    if not drawing.boxes:
        return drawn
    return box_overlay(drawn, mask_boxes(values, mask, _view_of(picture, mask)))


def _objects_drawn(look: Look, drawing: Drawing) -> UInt8[np.ndarray, "height width 3"]:
    found = look.objects(OBJECTS[drawing.style])
    together = np.zeros((look.view.rows, look.view.columns), dtype=np.bool_)
    for one in found:
        together |= one.mask
    drawn = mask_overlay(look.shown, together, opacity=drawing.opacity)
    for one in found:
        drawn = _contoured(drawn, one.mask)
    if not drawing.boxes:
        return drawn
    return box_overlay(drawn, [one.box(_view_of(look.shown, together)) for one in found])


def _contoured(
    picture: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "height width 3"]:
    """A thin white line around the patches of a mask."""
    inside = Image.fromarray(upsampled(mask, *picture.shape[:2])).convert("L")
    core = np.asarray(inside.filter(ImageFilter.MinFilter(3))) > 0
    drawn = picture.copy()
    drawn[(np.asarray(inside) > 0) & ~core] = OUTLINE
    return drawn


def _view_of(
    picture: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "rows columns"]
) -> View:
    """The grid over the picture that is drawn on."""
    (height, width), (rows, columns) = picture.shape[:2], mask.shape
    return View(rows, columns, 0.0, 0.0, width / columns, height / rows)


def _shrunk(
    picture: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "small_height small_width 3"]:
    ratio = min(1.0, THUMBNAIL / min(picture.shape[:2]))
    height, width = (max(1, round(side * ratio)) for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def _replaced(drawing: Drawing, **changes: object) -> Drawing:
    return Drawing(**(vars(drawing) | {"boxes": False} | changes))
