"""Output files of dino-attention about the objects in one image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dino_infer.cli.attention_files import Drawing, Looking, saved, with_ending
from dino_infer.drawing.overlays import heat_overlay, mask_overlay, mosaic
from dino_infer.drawing.sheets import heat_panel, panel_row
from dino_infer.files import whole_file, write_json
from dino_infer.objects.find import ObjectMasks


def write_object_files(
    target: Path, found: ObjectMasks, kinds: tuple[str, ...], drawing: Drawing, *, method: str
) -> list[Path]:
    """Write each kind of file about the objects in an image, and return their paths.

    Args:
        target: Path without the endings of the kinds; its folder must exist.
        found: The objects.
        kinds: Any of sheet, npz, overlay and mask.
        drawing: Options for drawing.
        method: Method that found them; the sheet and the arrays are named after it.
    """
    written = []
    for kind in kinds:
        if kind == "npz":
            written.append(_write_npz(with_ending(target, f"{method}.npz"), found))
        else:
            ending = method if kind == "sheet" else kind
            path = with_ending(target, f"{ending}.png")
            written.append(saved(path, PICTURES[kind](found, drawing)))
    return written


def write_object_boxes(
    target: Path, image: UInt8[np.ndarray, "_ _ 3"], found: ObjectMasks, looking: Looking,
    drawing: Drawing, *, name: str,
) -> Path:  # fmt: skip
    """Write the boxes around the objects, in pixels of the image."""
    view, (height, width) = looking.view(image), image.shape[:2]
    boxes = [
        one.box(view)._asdict() | {"object": number}
        for number, one in enumerate(found.objects, start=1)
        if one.mask.sum() >= drawing.min_patches
    ]
    about = {"image": name, "width": width, "height": height, "method": looking.method}
    path = with_ending(target, "boxes.json")
    write_json(path, about | {"boxes": boxes})
    return path


def _write_npz(path: Path, found: ObjectMasks) -> Path:
    scores = np.array([one.scores for one in found.objects]).reshape(found.masks.shape)
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, scores=scores.astype(np.float32), masks=found.masks)
    return path


def _sheet(found: ObjectMasks, drawing: Drawing) -> UInt8[np.ndarray, "height width 3"]:
    """The scores of each object, and its mask below them."""
    if not found.objects:
        return panel_row([found.picture], titles=["no object"])
    height, width = found.picture.shape[:2]
    heats = [
        heat_panel(one.scores, height=height, width=width, colormap=drawing.colormap)
        for one in found.objects
    ]
    masks = [mask_overlay(found.picture, mask) for mask in found.masks]
    titles = ["image", *(f"object {number}" for number in range(1, len(masks) + 1))]
    blank = np.full_like(found.picture, 255)
    rows = [panel_row([found.picture, *heats], titles=titles), panel_row([blank, *masks])]
    return np.concatenate(rows)


def _overlay(found: ObjectMasks, drawing: Drawing) -> UInt8[np.ndarray, "height width 3"]:
    """The scores of each object laid over the image, side by side."""
    panels = [
        heat_overlay(found.picture, one.scores, opacity=drawing.opacity, colormap=drawing.colormap)
        for one in found.objects
    ]
    return mosaic(panels or [found.picture])


def _mask(found: ObjectMasks, _: Drawing) -> UInt8[np.ndarray, "height width 3"]:
    return np.asarray(found.overlay())


PICTURES: dict[str, Callable[[ObjectMasks, Drawing], UInt8[np.ndarray, "_height _width 3"]]] = {
    "sheet": _sheet,
    "overlay": _overlay,
    "mask": _mask,
}
