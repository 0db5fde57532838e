"""A field to paint on a picture, and the patches that its strokes mark."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import Int8, UInt8
from PIL import Image

from dino_infer.images.read import read_image
from dino_infer.objects.painting import BACKGROUND, OBJECT, UNMARKED

OBJECT_COLOR, BACKGROUND_COLOR = "#ff6010", "#2060ff"
CANVAS = 640  # pixels of the longer side of a picture to paint on
MAX_LAYER_PIXELS = 4_000_000
BRUSH = 24
PAINTED = 0.3  # share of a patch that a stroke must cover to mark it


def brush_field(label: str, *, elem_id: str) -> gr.ImageEditor:
    """A picture to paint on with two colours; hands on the file of its layer, unopened."""
    field = gr.ImageEditor(
        label=label, type="filepath", sources=[], transforms=[], layers=False, buttons=[],
        brush=gr.Brush(
            default_size=BRUSH, colors=[OBJECT_COLOR, BACKGROUND_COLOR], color_mode="fixed",
            default_color=OBJECT_COLOR,
        ),
        eraser=gr.Eraser(default_size=BRUSH),
        canvas_size=(CANVAS, CANVAS), height=400, format="png", elem_id=elem_id,
    )  # fmt: skip
    field.preprocess = partial(_layer, field)  # type: ignore[assignment]
    return field


def to_paint_on(
    picture: UInt8[np.ndarray, "height width 3"], strokes: bytes | None = None
) -> dict[str, Any]:
    """A picture for the field, of a size that is quick to send back and forth.

    Args:
        picture: The whole of what the network sees.
        strokes: The layer that was painted on it before.
    """
    background = Image.fromarray(picture)
    background.thumbnail((CANVAS, CANVAS))
    layers = [] if strokes is None else [Image.open(io.BytesIO(strokes))]
    return {"background": np.asarray(background), "layers": layers, "composite": None}


def marks_of(strokes: bytes | None, grid: tuple[int, int]) -> Int8[np.ndarray, "rows columns"]:
    """The patches that strokes mark as the object or the background.

    Without a stroke of the background, all that is not the object is background.

    Raises:
        ImageError: The upload is no picture.
    """
    marks = np.full(grid, UNMARKED, dtype=np.int8)
    if strokes is None:
        return marks
    layer = read_image(strokes, path="strokes", max_pixels=MAX_LAYER_PIXELS).astype(np.int16)
    # Where nothing was painted a layer is black or white; both colours are strong in one channel.
    warm, cold = (layer[..., a] - layer[..., b] > 100 for a, b in ((0, 2), (2, 0)))
    for painted, value in ((warm, OBJECT), (cold, BACKGROUND)):
        shares = Image.fromarray(painted.astype(np.float32)).resize(
            (grid[1], grid[0]), Image.Resampling.BOX
        )
        marks[np.asarray(shares) > PAINTED] = value
    if (marks == OBJECT).any() and not (marks == BACKGROUND).any():
        marks[marks == UNMARKED] = BACKGROUND
    return marks


def _layer(field: gr.ImageEditor, payload: Any) -> bytes | None:
    """The file of the layer: the page sends it before the event, which names it by an id."""
    if payload is None:
        return None
    sent = payload if payload.id is None else field.blob_storage.get(payload.id)
    layer = sent.layers[0] if sent is not None and sent.layers else None
    return layer if layer is None or isinstance(layer, bytes) else Path(layer.path).read_bytes()
