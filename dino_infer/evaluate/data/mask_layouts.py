"""Files of images and their masks: two folders, or the layout of PASCAL VOC."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dino_infer.errors import DataError
from dino_infer.evaluate.data.label_files import first_names
from dino_infer.sources.image_list import ImageList, list_images

IMAGES, MASKS = "images", "masks"
VOC_IMAGES, VOC_OBJECTS, VOC_CLASSES = "JPEGImages", "SegmentationObject", "SegmentationClass"
VOC_SPLITS = Path("ImageSets", "Segmentation")


class Pairs(NamedTuple):
    """Images that have masks, before any is read."""

    source: str
    images: ImageList
    object_files: list[Path]
    class_files: list[Path]
    excluded: list[str]


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


def plain_pairs(source: str | Path, masks: str | Path | None) -> Pairs:
    """Images and masks in folders of their own, paired by their names without suffix.

    Raises:
        DataError: A folder is missing.
    """
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
    return Pairs(str(source), images.select(chosen), paths, paths, excluded)


def voc_pairs(root: Path, split: str | None) -> Pairs:
    """Images and masks of a split in the layout of PASCAL VOC.

    Raises:
        DataError: There are no masks, or there is no such split.
    """
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
    return Pairs(str(root), images.select(chosen), objects, classes, excluded)


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
