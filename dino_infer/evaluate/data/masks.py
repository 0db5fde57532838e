"""Images with ground-truth masks: folders of images and masks, and the layout of PASCAL VOC."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt8

from dino_infer.choices import MaskMeaning
from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.data.label_files import first_names
from dino_infer.evaluate.data.mask_files import VOID, MaskScan, read_mask
from dino_infer.images.read import image_size, read_image
from dino_infer.progress import Progress
from dino_infer.sources.image_list import ImageList, list_images

IMAGES, MASKS = "images", "masks"
VOC_IMAGES, VOC_OBJECTS, VOC_CLASSES = "JPEGImages", "SegmentationObject", "SegmentationClass"
VOC_SPLITS = Path("ImageSets", "Segmentation")

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


class _Pairs(NamedTuple):
    """Images that have masks, before any is read."""

    source: str
    images: ImageList
    object_files: list[Path]
    class_files: list[Path]
    excluded: list[str]


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
        pairs, levels = _voc_pairs(Path(source), split), levels or "labels"
    else:
        check_no_split(split, source)
        pairs = _plain_pairs(source, masks)
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


def _scan(pairs: _Pairs, i: int, size: tuple[int, int], scan: MaskScan) -> None:
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


def check_no_split(split: str | None, source: str | Path) -> None:
    """Refuse a split of images that have no lists.

    Raises:
        DataError: There is one.
    """
    if split is not None:
        raise DataError(
            f"there is no split {split!r} in {str(source)!r}: splits are lists in {VOC_SPLITS} of "
            "the layout of PASCAL VOC, and all images are used here; leave the split out"
        )


def _plain_pairs(source: str | Path, masks: str | Path | None) -> _Pairs:
    place: str | Path = source
    if masks is None:
        place, masks = Path(source) / IMAGES, Path(source) / MASKS
        for folder in (place, masks):
            if not folder.is_dir():
                raise DataError(
                    f"expected the folders {IMAGES!r} and {MASKS!r}, or the layout of PASCAL VOC, "
                    f"in {str(source)!r}; there is no {str(folder)!r}"
                )
    if not Path(masks).is_dir():
        raise DataError(f"expected a folder of masks, got {str(masks)!r}, which is none")
    images = list_images([place])
    files: dict[str, list[Path]] = {}
    for name in _names(list_images([masks])):
        files.setdefault(_stem(name), []).append(Path(masks) / name)
    excluded, chosen, paths = [], [], []
    seen: dict[str, str] = {}
    for i, name in enumerate(_names(images)):
        stem = _stem(name)
        if stem in seen:
            excluded.append(f"{name}: has the mask of {seen[stem]}")
        elif stem not in files:
            excluded.append(f"{name}: no mask")
        else:
            chosen.append(i)
            # A PNG beside a JPEG of it is the mask.
            paths.append(min(files[stem], key=lambda path: (path.suffix.lower() != ".png", path)))
        seen.setdefault(stem, name)
    excluded += [
        f"{files[stem][0].name}: mask without an image"
        for stem in sorted(files.keys() - seen.keys())
    ]
    return _Pairs(str(source), images.select(chosen), paths, paths, excluded)


def _voc_pairs(root: Path, split: str | None) -> _Pairs:
    folders = [root / name for name in (VOC_OBJECTS, VOC_CLASSES)]
    there = [folder for folder in folders if folder.is_dir()]
    if not there:
        raise DataError(
            f"expected {VOC_OBJECTS!r} or {VOC_CLASSES!r} beside {VOC_IMAGES!r} in {str(root)!r}"
        )
    images = list_images([root / VOC_IMAGES])
    positions = {_stem(name): i for i, name in enumerate(_names(images))}
    excluded, chosen, names = [], [], []
    for name in _split_names(root, split, there[0]):
        missing = [folder.name for folder in there if not (folder / f"{name}.png").is_file()]
        if name not in positions:
            excluded.append(f"{name}: no image in {VOC_IMAGES}")
        elif missing:
            excluded.append(f"{name}: no mask in {' and '.join(missing)}")
        else:
            chosen.append(positions[name])
            names.append(name)
    objects, classes = ([folder / f"{name}.png" for name in names] for folder in (there * 2)[:2])
    return _Pairs(str(root), images.select(chosen), objects, classes, excluded)


def _split_names(root: Path, split: str | None, masks: Path) -> list[str]:
    """Names of the images of a split, each once; all that have masks where there are no lists."""
    lists = root / VOC_SPLITS
    if not lists.is_dir():
        check_no_split(split, root)
        return sorted(path.stem for path in masks.glob("*.png"))
    split = "val" if split is None else split
    path = lists / f"{split}.txt"
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        known = sorted(other.stem for other in lists.glob("*.txt"))
        raise DataError(
            f"cannot read the list of the split {split!r}, {str(path)!r}: {error.strerror}; there "
            f"are the splits {', '.join(known) or 'none'}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"the list of the split, {str(path)!r}, is no UTF-8 text: {error}"
        ) from error
    return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


def _names(images: ImageList) -> Iterator[str]:
    return (images.name(i) for i in range(len(images)))


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def none_usable(source: str, what: str, lines: Sequence[str]) -> DataError:
    """The error of a set where ``what`` of every image was left out, for the reasons given."""
    return DataError(
        f"no image of {source!r} has {what} that can be used; {len(lines)} were left out"
        f"{first_names(lines)}"
    )
