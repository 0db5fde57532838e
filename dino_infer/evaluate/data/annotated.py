"""Images with annotated objects: masks with the boxes around them, or boxes of PASCAL VOC."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float64, Int32, UInt8

from dino_infer.attention.boxes import components
from dino_infer.errors import DataError
from dino_infer.evaluate.data.mask_layouts import none_usable
from dino_infer.evaluate.data.masks import MaskedImages
from dino_infer.images.read import read_image
from dino_infer.sources.image_list import ImageList, list_images

SPECKLE = 0.001  # share of the pixels of a mask that a connected part needs for a box


class Truth(NamedTuple):
    """Ground truth of one image."""

    boxes: Float64[np.ndarray, "objects 4"]
    """x0, y0, x1, y1 in pixels; the right and bottom edges are exclusive."""
    labels: Int32[np.ndarray, "height width"] | None
    """0 is background, ``VOID`` is void, all other numbers are objects; None without masks."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedImages:
    """Images whose annotations can be used."""

    source: str
    images: ImageList
    truth_of: Callable[[int], Truth]
    """Annotations of an image by its place."""
    has_masks: bool
    boxes_from: str
    """Origin of the boxes, in words."""
    requested: int
    """Images of the set, with those that are left out or failed."""
    failed: int = 0
    """Images that could not be read."""
    excluded: tuple[str, ...] = ()
    """Images and annotations that were left out, and why: a line each."""

    def picture(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        """An image with every pixel decoded, upright.

        Raises:
            ImageError: It cannot be read.
        """
        return read_image(self.images.read(i), path=self.images.location(i))


def with_mask_boxes(data: MaskedImages) -> AnnotatedImages:
    """Images with masks, and the boxes around their objects.

    Where masks number their objects, each number is one; where white is the object, each connected
    part is one, but for specks of less than a thousandth of the image.
    """

    def truth_of(i: int) -> Truth:
        labels = data.object_labels(i)
        return Truth(mask_boxes_of(labels, parts=data.levels == "foreground"), labels)

    return AnnotatedImages(
        source=data.source,
        images=data.images,
        truth_of=truth_of,
        has_masks=True,
        boxes_from="connected parts of masks" if data.levels == "foreground" else "masks",
        requested=data.requested,
        failed=data.failed,
        excluded=data.excluded,
    )


def mask_boxes_of(
    labels: Int32[np.ndarray, "height width"], *, parts: bool
) -> Float64[np.ndarray, "objects 4"]:
    """The boxes around the objects of a mask.

    Args:
        labels: 0 is background, ``VOID`` is void, all other numbers are objects.
        parts: Each connected part is an object, instead of each number.
    """
    if parts:
        labels = components(labels > 0)
    sizes = np.bincount(labels.clip(min=0).ravel())
    least = SPECKLE * labels.size if parts else 1
    numbers = np.flatnonzero(sizes >= least)
    if parts and not (numbers > 0).any():
        numbers = np.array([0, int(sizes[1:].argmax()) + 1])  # all objects are specks
    boxes = []
    for number in numbers[numbers > 0]:
        rows, columns = np.nonzero(labels == number)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def with_voc_boxes(source: str | Path, annotations: str | Path) -> AnnotatedImages:
    """Images with boxes from the annotations of PASCAL VOC; difficult objects count as all others.

    Args:
        source: The images, in any form that ``list_images`` takes.
        annotations: Folder of ``.xml`` files, named as the images but for the suffix.

    Raises:
        DataError: There are no annotations that can be used.
    """
    folder = Path(annotations)
    if not folder.is_dir():
        raise DataError(f"expected a folder of annotations, got {str(folder)!r}, which is none")
    listed = list_images([str(source)])
    files = {path.stem: path for path in sorted(folder.glob("*.xml"))}
    chosen: list[int] = []
    boxes: list[Float64[np.ndarray, "objects 4"]] = []
    lines: list[str] = []
    for i in range(len(listed)):
        path = files.pop(PurePosixPath(listed.name(i)).stem, None)
        if path is None:
            lines.append(f"{listed.name(i)}: no annotation, or one that another image has")
            continue
        try:
            boxes.append(voc_boxes(path))
            chosen.append(i)
        except DataError as error:
            lines.append(str(error))
    lines += [f"{path.name}: annotation without an image" for path in files.values()]
    if not chosen:
        raise none_usable(str(source), "an annotation", lines)
    return AnnotatedImages(
        source=str(source),
        images=listed.select(chosen),
        truth_of=lambda i: Truth(boxes[i], None),
        has_masks=False,
        boxes_from=str(folder),
        requested=len(listed),
        excluded=tuple(lines),
    )


def voc_boxes(path: Path) -> Float64[np.ndarray, "objects 4"]:
    """The boxes of one annotation, whose pixels count from 1 and whose edges are inclusive.

    Raises:
        DataError: It cannot be read, holds no object, or a box without a pixel.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path.name}: cannot be read: {error}") from error
    boxes = []
    for number, one in enumerate(root.iter("object"), start=1):
        texts = [one.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x0, y0, x1, y1 = (float(text or "") for text in texts)
        except ValueError as error:
            raise DataError(f"{path.name}: object {number} has no box of four numbers") from error
        # Also false for NaN.
        if not (1 <= x0 <= x1 and 1 <= y0 <= y1):
            found = ", ".join(str(text) for text in texts)
            raise DataError(f"{path.name}: object {number} has a box without a pixel, {found}")
        boxes.append([x0 - 1, y0 - 1, x1, y1])
    if not boxes:
        raise DataError(f"{path.name}: no object is annotated")
    return np.array(boxes, dtype=np.float64)
