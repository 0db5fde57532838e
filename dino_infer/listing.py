"""Find images in folders, list files and tar shards; a list compact enough for millions."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from operator import index
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int32, Integer

from dino_infer import shards
from dino_infer.errors import DataError
from dino_infer.images import file_bytes
from dino_infer.sources import Found, Source, found_in

_ROWS_AT_ONCE = 65_536

_ROW = np.dtype(
    [
        ("start", np.int64),  # of the name, in the block of names
        ("length", np.int32),
        ("source", np.int32),
        ("offset", np.int64),  # of the member, in its shard
        ("size", np.int64),
        ("label", np.int32),  # of the member's .cls file; -1 without one
    ]
)


class ImageList:
    """The names and places of images, in order; made by ``list_images``.

    Names are one block of bytes instead of a Python object each: a million paths take less than
    100 MB, pickle at once, and stay shared between forked processes.
    """

    def __init__(
        self, names: bytes, rows: np.ndarray, sources: tuple[Source, ...], labels: tuple[bytes, ...]
    ) -> None:
        self._names = names
        self._rows = rows
        self._sources = sources
        self._shard_labels = labels

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, i: SupportsIndex) -> str:
        """The POSIX path below its root, or ``shard.tar/member``; odd bytes as surrogates."""
        return os.fsdecode(self._name(self._row(i)))

    def location(self, i: SupportsIndex) -> str:
        """Where the image is, for messages: an absolute path, or ``/path/shard.tar::member``."""
        row = self._row(i)
        source = self._sources[row["source"]]
        if source.shard is None:
            return os.fsdecode(os.path.join(source.folder, self._name(row)))
        return os.fsdecode(source.shard.path + b"::" + self._name(row).split(b"/", 1)[1])

    def read(self, i: SupportsIndex) -> bytes:
        """The encoded image.

        Raises:
            ImageError: It is missing, unreadable, empty, or too large to be an image.
        """
        row = self._row(i)
        source, name = self._sources[row["source"]], self._name(row)
        if source.shard is None:
            return file_bytes(os.path.join(source.folder, name), name=os.fsdecode(name))
        offset, size = int(row["offset"]), int(row["size"])
        return shards.read_member(source.shard, offset=offset, size=size, name=os.fsdecode(name))

    def labels(self) -> tuple[Int32[np.ndarray, " images"], tuple[str, ...]] | None:
        """The class of each image, and the names of the classes that the numbers index.

        The class is the folder directly below the root, or the ``.cls`` member of a shard. Names
        are sorted by their bytes; two lists number alike only if they hold the same classes, so
        compare names across lists.

        Returns:
            None unless every image has a class.
        """
        codes: dict[bytes, int] = {}
        numbers = np.empty(len(self), dtype=np.int32)
        for i, label in enumerate(self._labels()):
            if label is None:
                return None
            numbers[i] = codes.setdefault(label, len(codes))
        names = sorted(codes)
        rank = np.empty(len(names), dtype=np.int32)
        rank[[codes[name] for name in names]] = np.arange(len(names))
        return rank[numbers], tuple(os.fsdecode(name) for name in names)

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the names in their order; where they lie does not count."""
        digest = hashlib.sha256(self._rows["length"].astype("<i4").tobytes())
        digest.update(self._names)
        return digest.hexdigest()

    def select(self, indices: Sequence[int] | Integer[np.ndarray, " chosen"]) -> "ImageList":
        """The images at these positions, in this order; repeats are allowed."""
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            bad = chosen[(chosen < 0) | (chosen >= len(self))][0]
            raise IndexError(f"expected positions from 0 to {len(self) - 1}, got {bad}")
        rows = self._rows[chosen]
        names = b"".join(self._slices(rows))
        _place_names(rows)
        return ImageList(names, rows, self._sources, self._shard_labels)

    def _row(self, i: SupportsIndex) -> np.void:
        if not 0 <= index(i) < len(self):
            raise IndexError(f"expected a position from 0 to {len(self) - 1}, got {i}")
        row: np.void = self._rows[i]
        return row

    def _name(self, row: np.void) -> bytes:
        return self._names[row["start"] : row["start"] + row["length"]]

    def _slices(self, rows: np.ndarray) -> Iterator[bytes]:
        """The names of many rows: through Python integers, five times faster than one by one."""
        for some in np.array_split(rows, len(rows) // _ROWS_AT_ONCE + 1):
            starts, ends = some["start"], some["start"] + some["length"]
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                yield self._names[start:end]

    def _labels(self) -> Iterator[bytes | None]:
        in_shard = np.array([source.shard is not None for source in self._sources])
        for name, is_member, label in zip(
            self._slices(self._rows),
            in_shard[self._rows["source"]].tolist(),
            self._rows["label"].tolist(),
            strict=True,
        ):
            if is_member:
                yield self._shard_labels[label] if label >= 0 else None
            else:
                yield _top_folder(name)


def _top_folder(name: bytes) -> bytes | None:
    folder, slash, _ = name.partition(b"/")
    # The names of a list file may also be absolute, or lie beside its folder.
    return folder if slash and folder not in (b"", b"..") else None


def list_images(sources: str | Path | Sequence[str | Path]) -> ImageList:
    """Find the images of folders, list files, tar shards and single files.

    - A folder is searched with all its subfolders. Links are followed, each real folder counts
      once, hidden files and folders do not count. A broken link named like an image is listed,
      so that it is reported when it is read.
    - A ``.tar`` file is a WebDataset shard: its image members count, ``KEY.cls`` beside
      ``KEY.jpg`` is the class.
    - A file with the suffix of an image is that image.
    - Any other file is a list: one path a line, absolute or relative to the list's own folder.

    Args:
        sources: One or several, in the order wanted; each is sorted by the bytes of its names.

    Raises:
        DataError: A source is missing, unreadable, damaged, or holds no image.
    """
    if isinstance(sources, str | Path):
        sources = [sources]
    if not sources:
        raise DataError("expected at least one folder, list file or .tar of images, got none")
    found = [found_in(source) for source in sources]
    counts = [len(part.lengths) for part in found]
    rows = np.zeros(sum(counts), dtype=_ROW)
    rows["length"] = np.concatenate([part.lengths for part in found])
    rows["source"] = np.repeat(np.arange(len(found)), counts)
    _place_names(rows)
    labels = _fill_members(rows, found)
    names = b"".join([part.names for part in found])
    return ImageList(names, rows, tuple(part.source for part in found), labels)


def _place_names(rows: np.ndarray) -> None:
    rows["start"] = np.cumsum(rows["length"], dtype=np.int64) - rows["length"]


def _fill_members(rows: np.ndarray, found: list[Found]) -> tuple[bytes, ...]:
    """Fill in where the members of shards are and which label they have; return the labels."""
    codes: dict[bytes | None, int] = {None: -1}
    rows["label"] = -1
    end = 0
    for part in found:
        start, end = end, end + len(part.lengths)
        if part.spans is not None:
            rows["offset"][start:end], rows["size"][start:end] = part.spans.T
        if part.labels is not None:
            rows["label"][start:end] = [
                codes.setdefault(label, len(codes) - 1) for label in part.labels
            ]
    return tuple(label for label in codes if label is not None)
