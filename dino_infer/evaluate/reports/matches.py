"""A sheet of queries with what was found for them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from dino_infer.errors import ImageError
from dino_infer.images.read import read_image
from dino_infer.sources.image_list import ImageList

CELL_PIXELS = 216
TITLE_PIXELS = 24
FRAME_PIXELS = 5
FONT_PIXELS = 14
TITLE_LENGTH = 30  # characters that fit above a cell

RIGHT, WRONG, NEUTRAL = "#2a9d3a", "#d62828", "#8a8a8a"


class Panel(NamedTuple):
    """A picture of a sheet."""

    picture: UInt8[np.ndarray, "height width 3"]
    title: str
    color: str = NEUTRAL
    """Colour of its frame."""


def picture_of(images: ImageList, i: int) -> UInt8[np.ndarray, "height width 3"]:
    """An image of a list as a picture; grey if it cannot be read any more."""
    try:
        return read_image(images.read(i), path=images.name(i))
    except ImageError:
        return np.full((CELL_PIXELS, CELL_PIXELS, 3), 128, np.uint8)


def matches_sheet(rows: Sequence[Sequence[Panel]]) -> Image.Image:
    """Rows of framed pictures on white, each with its title above, whole and in equal squares."""
    height, width = CELL_PIXELS + TITLE_PIXELS, CELL_PIXELS
    columns = max((len(row) for row in rows), default=1)
    sheet = Image.new("RGB", (columns * width, max(len(rows), 1) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PIXELS)
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            left, top = x * width, y * height
            title = panel.title
            if len(title) > TITLE_LENGTH:
                title = title[: TITLE_LENGTH - 1] + "…"
            middle = (left + width // 2, top + TITLE_PIXELS // 2)
            draw.text(middle, title, fill="black", font=font, anchor="mm")
            framed = _framed(panel)
            gap = (CELL_PIXELS - framed.width) // 2, (CELL_PIXELS - framed.height) // 2
            sheet.paste(framed, (left + gap[0], top + TITLE_PIXELS + gap[1]))
    return sheet


def _framed(panel: Panel) -> Image.Image:
    inside = CELL_PIXELS - 2 * FRAME_PIXELS - 4
    picture = Image.fromarray(panel.picture)
    scale = inside / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    framed = Image.new(
        "RGB", (width + 2 * FRAME_PIXELS, height + 2 * FRAME_PIXELS), color=panel.color
    )
    shown = picture.resize((width, height), Image.Resampling.HAMMING)
    framed.paste(shown, (FRAME_PIXELS, FRAME_PIXELS))
    return framed
