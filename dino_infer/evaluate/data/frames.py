"""Videos as folders of numbered frames, with masks of their objects: DAVIS, or frames/ and masks/.

``ROOT/JPEGImages/480p/VIDEO/00000.jpg`` with ``ROOT/Annotations/480p/VIDEO/00000.png``, as DAVIS
has them (``480p`` may be left out), or a single video: ``ROOT/frames/00000.jpg`` with
``ROOT/masks/00000.png``. A mask belongs to the frame of its name; the first frame must have one.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.data.mask_files import MaskLevels, MaskScan, read_mask
from dino_infer.images.read import IMAGE_SUFFIXES, file_bytes, image_size
from dino_infer.sources.image_list import ImageList, list_images

WHITE = 255
"""Void where a first mask holds other labels too; the object where it is the only one."""

RESOLUTION = "480p"
DAVIS_LIST = Path("ImageSets", "2017", "val.txt")
NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")


@dataclass(frozen=True, kw_only=True)
class Video:
    """Frames of one video in order, and the masks that are known."""

    name: str
    frames: tuple[Path, ...]
    masks: Mapping[str, Path]
    """Files of masks by the names of their frames, without suffix."""
    size: tuple[int, int]
    """Height and width of all frames and masks."""
    objects: tuple[int, ...]
    """Labels of the first mask, without the background and void."""

    def __repr__(self) -> str:
        known = f"{len(self.masks)} masks, {len(self.objects)} objects"
        return f"Video({self.name!r}, {len(self.frames)} frames, {known})"

    @property
    def images(self) -> ImageList:
        """The frames as a list that embedders take."""
        return list_images(self.frames)

    def mask(self, frame: int) -> UInt8[np.ndarray, "height width"] | None:
        """Labels of one frame, where they are known.

        Raises:
            ImageError: The file cannot be read any more.
        """
        path = self.masks.get(self.frames[frame].stem)
        return None if path is None else _levels(path).levels.astype(np.uint8)

    def void(self, mask: UInt8[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
        """Pixels that count neither as right nor as wrong."""
        nowhere = WHITE in self.objects
        return np.zeros(mask.shape, np.bool_) if nowhere else mask == WHITE

    @functools.cached_property
    def scored(self) -> tuple[int, ...]:
        """Frames with a mask to compare with, without the first and the last one, as DAVIS has it.

        Where nothing would be left, the last one counts.
        """
        known = [i for i, path in enumerate(self.frames) if path.stem in self.masks]
        return tuple(known[1:-1] or known[1:])


@dataclass(frozen=True, kw_only=True)
class Videos:
    """Videos of a folder."""

    source: str
    videos: tuple[Video, ...]
    requested: int
    """Number of frames, those of videos that were left out included."""
    excluded: tuple[str, ...] = ()
    """Lines on what was left out, and why."""

    def __len__(self) -> int:
        return len(self.videos)


def video_sequences(source: str | Path, *, list_file: str | Path | None = None) -> Videos:
    """Videos of a folder that can be used; the others are named with the reason.

    Args:
        source: Folder in one of the layouts above.
        list_file: Names of the videos to use, one a line, in the layout of DAVIS; by default
            those of ``ImageSets/2017/val.txt``, or all where there is no such file.

    Raises:
        DataError: The folder has another layout, or no video can be used; a single video names
            its fault.
    """
    root = Path(source)
    folders, excluded = _folders(root, list_file)
    videos, requested = [], 0
    for name, (frames, masks) in folders.items():
        try:
            paths = _images_in(frames)
            requested += len(paths)
            video, lines = _video(name, paths, masks)
        except (DataError, ImageError) as error:
            excluded.append(f"video {name!r}: {error}")
        else:
            videos.append(video)
            excluded += lines
    if any(video.scored for video in videos):
        excluded += [
            f"video {video.name!r}: only its first frame has a mask, so it is not scored"
            for video in videos
            if not video.scored
        ]
    if not videos:
        more = f" ({len(excluded)} videos have faults)" if len(excluded) > 1 else ""
        raise DataError(f"{str(root)!r} has no video that can be used: {excluded[0]}{more}")
    return Videos(
        source=str(root), videos=tuple(videos), requested=requested, excluded=tuple(excluded)
    )


def _folders(
    root: Path, list_file: str | Path | None
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Folders of frames and masks by the name of the video, and lines of names without any."""
    if (root / "frames").is_dir():
        if list_file is not None:
            raise DataError(f"{str(root)!r} is a single video; leave out `list_file`")
        return {root.absolute().name: (root / "frames", root / "masks")}, []
    frames, masks = root / "JPEGImages", root / "Annotations"
    if not frames.is_dir():
        raise DataError(
            f"expected {str(root)!r} to hold JPEGImages/ and Annotations/, or frames/ and masks/; "
            f"{'it has neither' if root.is_dir() else 'there is no such folder'}"
        )
    if (frames / RESOLUTION).is_dir():
        frames, masks = frames / RESOLUTION, masks / RESOLUTION
    there = sorted(path.name for path in frames.iterdir() if path.is_dir())
    default = root / DAVIS_LIST
    chosen = list_file if list_file is not None else default if default.is_file() else None
    names = there if chosen is None else _listed(Path(chosen))
    if not names:
        raise DataError(f"{str(frames if chosen is None else chosen)!r} names no video")
    excluded = [
        f"video {name!r} of {str(chosen)!r}: there is no folder {str(frames / name)!r}"
        for name in names
        if name not in there
    ]
    return {name: (frames / name, masks / name) for name in names if name in there}, excluded


def _listed(path: Path) -> list[str]:
    """Names of a list file, each once."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the list of videos {str(path)!r}: {error}") from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _video(name: str, paths: list[Path], masks: Path) -> tuple[Video, list[str]]:
    """A video, with lines about what of it does not count.

    Raises:
        DataError: Its frames or its first mask cannot be used.
        ImageError: A file cannot be read.
    """
    frames = _in_order(paths)
    size = image_size(file_bytes(frames[0]), str(frames[0]))
    for path in frames[1:]:
        _check_size(path, image_size(file_bytes(path), str(path)), size, "the first frame")
    known = _by_stem(_images_in(masks)) if masks.is_dir() else {}
    if frames[0].stem not in known:
        raise DataError(
            f"the first frame {frames[0].name!r} has no mask; put it at "
            f"{str(masks / frames[0].stem) + '.png'!r}"
        )
    strangers = sorted(known.keys() - {path.stem for path in frames})
    lines = [f"video {name!r}: mask {known[stem].name!r} has no frame" for stem in strangers]
    known = {stem: path for stem, path in known.items() if stem not in strangers}
    objects, later = _objects(frames, known, size)
    if later:
        listed = ", ".join(map(str, sorted(later)))
        lines.append(f"video {name!r}: labels {listed} are not in the first mask")
    if 1 < len(known) < len(frames):
        lines.append(f"video {name!r}: {len(frames) - len(known)} frames have no mask")
    video = Video(name=name, frames=tuple(frames), masks=known, size=size, objects=objects)
    return video, lines


def _objects(
    frames: list[Path], masks: Mapping[str, Path], size: tuple[int, int]
) -> tuple[tuple[int, ...], set[int]]:
    """Objects of the first mask, and labels that only later masks have; reads all masks."""
    first, later, scan = frozenset[int](), set[int](), MaskScan()
    for path in frames:
        if path.stem not in masks:
            continue
        levels = _levels(masks[path.stem])
        scan.add(levels, masks[path.stem].name)
        mask = levels.levels
        _check_size(masks[path.stem], mask.shape, size, "its frame")
        found = set(np.unique(mask).tolist()) - {0}
        if path is not frames[0]:
            later |= found
            continue
        first = frozenset(found if found == {WHITE} else found - {WHITE})
        if not first:
            raise DataError(
                f"the first mask {str(masks[path.stem])!r} is empty; mark each object with a label "
                "from 1 on"
            )
    if doubt := scan.doubt():
        raise DataError(f"{doubt}; save masks of one label an object, without soft edges")
    return tuple(sorted(first)), later - first - {WHITE}


def _levels(path: Path) -> MaskLevels:
    mask = read_mask(path)
    if (highest := mask.levels.max(initial=0)) > WHITE:
        reason = f"holds label {highest}; labels go from 0 to {WHITE}"
        raise ImageError(str(path), "unsupported", reason)
    return mask


def _check_size(path: Path, found: tuple[int, ...], wanted: tuple[int, int], what: str) -> None:
    if found != wanted:
        raise DataError(
            f"{str(path)!r} has {found[1]} x {found[0]} pixels, {what} has {wanted[1]} x "
            f"{wanted[0]}; make them equal"
        )


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    """Files by their names without suffix.

    Raises:
        DataError: Two have the same.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise DataError(f"{str(found[path.stem])!r} and {str(path)!r} are for the same frame")
        found[path.stem] = path
    return found


def _in_order(paths: list[Path]) -> list[Path]:
    """Frames by their numbers, which need no leading zeros.

    Raises:
        DataError: They are too few, not numbered, or one is missing or there twice.
    """
    if len(paths) < 2:
        raise DataError(f"expected at least 2 frames, got {len(paths)}")
    numbers: dict[int, Path] = {}
    kinds = set()
    for path in paths:
        match = NUMBERED.fullmatch(path.stem)
        if match is None:
            raise DataError(f"frame {path.name!r} has no number; name frames 00000.jpg, 00001.jpg")
        before, digits, after = match.groups()
        kinds.add((before, after))
        if int(digits) in numbers:
            raise DataError(
                f"frames {numbers[int(digits)].name!r} and {path.name!r} have the same number"
            )
        numbers[int(digits)] = path
    if len(kinds) > 1:
        names = [path.name for path in paths]
        raise DataError(
            f"frames such as {names[0]!r} and {names[-1]!r} differ in more than their number, so "
            "their order is unknown; name them alike"
        )
    ordered = sorted(numbers)
    steps = np.diff(ordered)
    if len(gaps := np.flatnonzero(steps != steps.min())):
        before, after = (numbers[ordered[gaps[0] + i]].name for i in (0, 1))
        raise DataError(
            f"a frame is missing between {before!r} and {after!r}; the others are {steps.min()} "
            "apart"
        )
    return [numbers[number] for number in ordered]
