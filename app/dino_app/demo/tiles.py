"""Small pictures for lists of results, a drawn one where there is none, and their captions."""

import functools
from pathlib import PurePosixPath
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from dino_infer.errors import ImageError
from dino_infer.images.read import read_image

TILE = 256  # pixels of the longest side, as in an index
MAX_TILE_PIXELS = 4_000_000  # thumbnails of an index from elsewhere
NAME_LETTERS = 28  # of a caption, which must not fill a phone

_GROUND, _DRAWN = (126, 134, 148), (166, 174, 187)  # seen on a light and on a dark page


def tile_gallery(label: str, *, elem_id: str, **options: Any) -> gr.Gallery:
    """Show tiles that are not to be changed, three in a row, which fill the width of a phone."""
    settings: dict[str, Any] = {"columns": 3, "height": "max-content", "object_fit": "contain"}
    return gr.Gallery(
        label=label, interactive=False, elem_id=elem_id, **(settings | {"buttons": []} | options)
    )


def thumbnail_tile(thumbnail: bytes | None) -> Image.Image:
    """The thumbnail of an item, or the empty tile where there is none or it is damaged."""
    if thumbnail is None:
        return empty_tile()
    try:
        return Image.fromarray(read_image(thumbnail, path="thumbnail", max_pixels=MAX_TILE_PIXELS))
    except ImageError:
        return empty_tile()


def photo_tile(image: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    """A photo made small."""
    tile = Image.fromarray(image)
    tile.thumbnail((TILE, TILE), reducing_gap=2.0)
    return tile


@functools.cache
def empty_tile() -> Image.Image:
    """A drawing that stands for a photo that is not at hand."""
    tile = Image.new("RGB", (TILE, TILE), _GROUND)
    pen = ImageDraw.Draw(tile)
    pen.ellipse((158, 66, 194, 102), fill=_DRAWN)
    pen.polygon([(48, 190), (110, 96), (150, 156), (172, 126), (208, 190)], fill=_DRAWN)
    return tile


def caption(name: str, *facts: str) -> str:
    """Caption below a tile: facts, and the end of a name, which tells files apart."""
    short = PurePosixPath(name).name or name
    if len(short) > NAME_LETTERS:
        short = "…" + short[1 - NAME_LETTERS :]
    return " · ".join([*facts, short])


def plain(text: str) -> str:
    """Text that Markdown shows as it is, whatever letters a file name has."""
    return "".join(f"&#{ord(letter)};" if not letter.isalnum() else letter for letter in text)
