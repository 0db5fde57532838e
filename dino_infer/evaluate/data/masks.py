"""Images with ground-truth masks: folders of images and masks, and the layout of PASCAL VOC."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt8

from dino_infer.choices import MaskMeaning
from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.data.mask_files import VOID, MaskScan, read_mask
from dino_infer.evaluate.data.mask_layouts import (
    VOC_IMAGES,
    Pairs,
    check_no_split,
    none_usable,
    plain_pairs,
    voc_pairs,
)
from dino_infer.images.read import image_size, read_image
from dino_infer.progress import Progress
from dino_infer.sources.image_list import ImageList

logger = logging.getLogger(__name__)


class Objects(NamedTuple):
    """Ground truth of the objects of one image."""

    masks: Bool[np.ndarray, "objects height width"]
    valid: Bool[np.ndarray, "height width"]
    """False where the ground truth is void: such pixels count neither as right nor as wrong."""


@dataclass(frozen=True, kw_only=True)
class MaskedImages:
    """Images whose masks can be used, in the order of their names."""

    source: str
    images: ImageList
    object_files: tuple[Path, ...]
    """Mask of each image whose labels number its objects."""
    class_files: tuple[Path, ...]
    """Mask of each image whose labels are classes; in plain folders the same files."""
    levels: MaskMeaning
    """Meaning of the levels of the masks."""
    requested: int
    """Images of the set, with those that are left out or failed."""
    failed: int = 0
    """Images that could not be read."""
    excluded: tuple[str, ...] = ()
    """Images and masks that were left out, and why: a line each."""

    def __len__(self) -> int:
        return len(self.object_files)

    def name(self, i: int) -> str:
        """Name of an image, below its folder."""
        return self.images.name(i)

    def picture(self, i: int) -> UInt8[np.ndarray, "height width 3"]:
        """An image with every pixel decoded, upright.

        Raises:
            ImageError: It cannot be read.
        """
        return read_image(self.images.read(i), path=self.images.location(i))

    def object_labels(self, i: int) -> Int32[np.ndarray, "height width"]:
        """Number of the object at each pixel from 1; 0 is background, ``VOID`` is void.

        Raises:
            ImageError: The mask cannot be read.
        """
        return read_mask(self.object_files[i]).labels(self.levels)

    def class_labels(self, i: int) -> Int32[np.ndarray, "height width"]:
        """Class of each pixel from 1; 0 is background, ``VOID`` is void.

        Raises:
            ImageError: The mask cannot be read.
        """
        return read_mask(self.class_files[i]).labels(self.levels)

    def objects(self, i: int) -> Objects:
        """Masks of the objects of an image, by their numbers.

        Raises:
            ImageError: The mask cannot be read.
        """
        labels = self.object_labels(i)
        numbers = np.unique(labels[labels > 0])
        return Objects(labels == numbers[:, None, None], labels != VOID)

    def select(self, indices: Sequence[int] | Integer[np.ndarray, " chosen"]) -> "MaskedImages":
        """The images at these positions, in this order."""
        chosen = [int(i) for i in indices]
        return replace(
            self,
            images=self.images.select(chosen),
            object_files=tuple(self.object_files[i] for i in chosen),
            class_files=tuple(self.class_files[i] for i in chosen),
        )


def masked_images(
    source: str | Path,
    *,
    masks: str | Path | None = None,
    split: str | None = None,
    levels: MaskMeaning | None = None,
    objects: bool = True,
) -> MaskedImages:
    """Images with their masks, each read once to leave out those that cannot be used.

    Args:
        source: A folder with the folders ``images`` and ``masks``, or ``JPEGImages`` with
            ``SegmentationObject`` or ``SegmentationClass`` as in PASCAL VOC; with ``masks``,
            the images in any form that ``list_images`` takes.
        masks: Folder of the masks, named as the images but for the suffix.
        split: List of images in ``ImageSets/Segmentation`` of the VOC layout. None takes ``val``
            where there are lists.
        levels: Meaning of the levels. None takes ``foreground`` where all masks are black and
            white, else ``labels``; VOC has ``labels``.
        objects: Leave out images without an object; False keeps those with any pixel not void.

    Raises:
        DataError: Folders are missing, there are no lists to take the split from, no mask can be
            used, or the meaning of the levels is not plain.
    """
    voc = masks is None and (Path(source) / VOC_IMAGES).is_dir()
    if voc:
        pairs, levels = voc_pairs(Path(source), split), levels or "labels"
    else:
        check_no_split(split, source)
        pairs = plain_pairs(source, masks)
    if not len(pairs.images):
        raise none_usable(pairs.source, "a mask", pairs.excluded)
    usable: list[int] = []
    scan = MaskScan()
    lines, failed = list(pairs.excluded), 0
    with Progress("read masks", total=len(pairs.images)) as progress:
        for i in range(len(pairs.images)):
            progress.advance(1)
            try:
                size = image_size(pairs.images.read(i), pairs.images.location(i))
            except ImageError as error:
                logger.warning("%s", error)
                failed += 1
                continue
            try:
                _scan(pairs, i, size, scan)
                usable.append(i)
            except ImageError as error:
                lines.append(f"{pairs.images.name(i)}: mask {error.reason}")
    if not usable:
        raise none_usable(pairs.source, "a mask", lines)
    if levels is None:
        levels = scan.meaning(lambda reason: DataError(f"masks of {pairs.source!r}: {reason}"))
        logger.info("masks of %s are read as %s", pairs.source, levels)
    found = MaskedImages(
        source=pairs.source,
        images=pairs.images,
        object_files=tuple(pairs.object_files),
        class_files=tuple(pairs.class_files),
        levels=levels,
        requested=len(pairs.images),
        failed=failed,
    ).select(usable)
    return _without_empty(found, lines, objects=objects)


def _scan(pairs: Pairs, i: int, size: tuple[int, int], scan: MaskScan) -> None:
    for path in {pairs.object_files[i], pairs.class_files[i]}:
        mask = read_mask(path)
        if mask.levels.shape != size:
            (height, width), (rows, columns) = size, mask.levels.shape
            reason = f"has {columns} x {rows} pixels, but the image {width} x {height}"
            raise ImageError(str(path), "unsupported", reason)
        scan.add(mask, path.name)


def _without_empty(found: MaskedImages, lines: list[str], *, objects: bool) -> MaskedImages:
    kept = []
    for i in range(len(found)):
        labels = found.object_labels(i) if objects else found.class_labels(i)
        if (labels > 0).any() or (not objects and (labels == 0).any()):
            kept.append(i)
        else:
            lines.append(f"{found.name(i)}: mask is empty")
    if not kept:
        raise none_usable(found.source, "a mask", lines)
    return replace(found.select(kept), excluded=tuple(lines))
