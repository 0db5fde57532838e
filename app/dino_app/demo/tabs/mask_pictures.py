"""Masks laid over pictures, and written to files: what several tabs show and offer to keep."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image, ImageFilter

from dino_app.demo.models import Look
from dino_infer.attention.views import View
from dino_infer.drawing.overlays import OUTLINE, TINT, head_palette, smoothed
from dino_infer.objects.coco import coco_annotations

DIMMED = 0.35  # of its brightness is left to what no mask has, at full opacity


class PhotoMasks(NamedTuple):
    """Masks of one photo, at the size of its upload."""

    name: str
    masks: list[Bool[np.ndarray, "height width"]]


def smooth_mask(
    values: Shaped[np.ndarray, "rows columns"], height: int, width: int, *, at_least: float = 0.5
) -> Bool[np.ndarray, "{height} {width}"]:
    """A mask, or numbers that it is cut from, at the size of a picture and without stairs."""
    inside: np.ndarray = smoothed(values.astype(np.float32), height, width) >= at_least
    return inside


def upload_mask(
    look: Look, values: Shaped[np.ndarray, "rows columns"], *, at_least: float = 0.5
) -> Bool[np.ndarray, "height width"]:
    """``smooth_mask`` in pixels of the upload; the strip that no patch covers is like its edge."""
    (height, width), view = look.size, look.view
    x0, y0, x1, y1 = view.box(0, 0, view.rows, view.columns)
    part = smooth_mask(values, y1 - y0, x1 - x0, at_least=at_least)
    around = ((y0, max(0, height - y1)), (x0, max(0, width - x1)))
    mask: np.ndarray = np.pad(part, around, mode="edge")[:height, :width]
    return mask


def contoured(
    picture: UInt8[np.ndarray, "height width 3"], inside: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """A thin white line around a mask of pixels."""
    core = np.asarray(Image.fromarray(inside).convert("L").filter(ImageFilter.MinFilter(3))) > 0
    drawn = picture.copy()
    drawn[inside & ~core] = OUTLINE
    return drawn


def masked_picture(
    picture: UInt8[np.ndarray, "height width 3"],
    masks: Sequence[Bool[np.ndarray, "height width"]],
    *,
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture with each mask tinted in a colour of its own and outlined, the rest darkened."""
    colors = [TINT] if len(masks) == 1 else head_palette(len(masks)) if len(masks) else []
    drawn = (picture * (1 - (1 - DIMMED) * opacity)).astype(np.uint8)
    for mask, color in zip(masks, colors, strict=True):
        tinted = picture[mask] * (1 - opacity) + np.array(color) * opacity
        drawn[mask] = tinted.round().astype(np.uint8)
    for mask in masks:
        drawn = contoured(drawn, mask)
    return drawn


def view_of_picture(picture: UInt8[np.ndarray, "height width 3"], grid: tuple[int, ...]) -> View:
    """The grid of patches over a picture that shows nothing else."""
    (height, width), (rows, columns) = picture.shape[:2], grid
    return View(rows, columns, 0.0, 0.0, width / columns, height / rows)


def write_masks(photos: Sequence[PhotoMasks], folder: Path) -> str:
    """Write a ZIP of PNGs and COCO annotations; the path of the file.

    Each PNG has the size of its photo and holds 0 for the background and 1, 2 ... for the masks;
    ``masks.json`` holds the same as annotations for COCO's tools.
    """
    path = folder / "dino-masks.zip"
    annotations: list[dict[str, Any]] = []
    images = []
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, masks) in enumerate(photos, start=1):
            height, width = masks[0].shape
            numbered = np.zeros((height, width), dtype=np.uint8)
            for value, mask in enumerate(masks, start=1):
                numbered[mask] = value
            file = f"{number:03}-{Path(name).stem}.png"
            with archive.open(file, "w") as written:
                palette = Image.fromarray(numbered, mode="P")
                palette.putpalette([0, 0, 0, *head_palette(max(2, len(masks))).ravel().tolist()])
                palette.save(written, "PNG")
            images.append(
                {"id": number, "file_name": name, "height": height, "width": width, "mask": file}
            )
            annotations += coco_annotations(masks, image_id=number, first_id=len(annotations) + 1)
        categories = [{"id": 1, "name": "object"}]
        whole = {"images": images, "annotations": annotations, "categories": categories}
        archive.writestr("masks.json", json.dumps(whole))
    return str(path)
