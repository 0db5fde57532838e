"""Masks of several labels as files and pictures, in the colours of PASCAL VOC and DAVIS."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dino_infer.drawing.sheets import panel_row
from dino_infer.files import whole_file

OPACITY = 0.6
EDGE = (255, 255, 255)


def palette() -> UInt8[np.ndarray, "256 3"]:
    """Colours by label: the bits of a label, three by three, are the high bits of its colour."""
    labels = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            place = 3 * bit + channel
            colors[:, channel] |= (labels >> place & 1).astype(np.uint8) << (7 - bit)
    return colors


def write_palette_mask(path: Path, mask: UInt8[np.ndarray, "height width"]) -> None:
    """Write labels as a palette PNG, the format of the annotations of VOC and DAVIS.

    Args:
        path: File to create or replace; its folder is made.
        mask: A label for each pixel.
    """
    picture = Image.fromarray(mask, mode="L")
    picture.putpalette(palette().tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG")


def labelled_picture(
    picture: UInt8[np.ndarray, "height width 3"], mask: UInt8[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture with each label in its colour, outlined; the background is in grey."""
    grey = np.asarray(Image.fromarray(picture).convert("L").convert("RGB"))
    tinted = picture * (1 - OPACITY) + palette()[mask] * OPACITY
    mixed = np.where(mask[..., None] > 0, tinted, 0.6 * grey + 50).round().astype(np.uint8)
    thickness = max(1, round(picture.shape[1] / 240))
    edge = np.zeros(mask.shape, np.bool_)
    for axis in (0, 1):
        for shift in range(1, thickness + 1):
            ahead = np.roll(mask, -shift, axis) != mask
            # What rolls over from the other side is no edge.
            ahead[(slice(None),) * axis + (slice(-shift, None),)] = False
            edge |= ahead
    mixed[edge] = EDGE
    return mixed


def label_sheet(rows: Sequence[tuple[Sequence[str], Sequence[np.ndarray]]]) -> Image.Image:
    """Rows of pictures with a title above each, on white.

    Args:
        rows: Titles and RGB pictures of each row; rows may differ in length.
    """
    drawn = [panel_row(pictures, titles=titles) for titles, pictures in rows]
    width = max(row.shape[1] for row in drawn)
    padded = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in drawn
    ]
    return Image.fromarray(np.concatenate(padded))
