"""Find images in folders, list files, tar shards and tables; a list compact enough for millions."""

import functools
import os
from collections.abc import Iterator, Sequence
from operator import index
from pathlib import Path
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int32, Integer

from dino_infer.errors import DataError
from dino_infer.images.read import MAX_FILE_BYTES
from dino_infer.sources.find import found_at
from dino_infer.sources.locations import Source
from dino_infer.sources.rows import (
    FILE,
    device_and_inode,
    names_fingerprint,
    place_names,
    rows_of,
    top_folder,
)

_ROWS_AT_ONCE = 65_536
_NEAR_BYTES = 65_536  # between members that are fetched in one go


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
        self._row_labels = labels
        self._has_shards = any(source.shard is not None for source in sources)

    def __repr__(self) -> str:
        others = len(self.sources) - 1
        more = f" and {others} more source{'s' * (others > 1)}" if others else ""
        return f"ImageList({len(self):,} images of {self.sources[0]!r}{more})"

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, i: SupportsIndex) -> str:
        """The POSIX path below its root, or ``shard.tar/member``; odd bytes as surrogates."""
        return os.fsdecode(self._name(self._row(i)))

    def location(self, i: SupportsIndex) -> str:
        """Place of the image, for messages: an absolute path, or ``/path/shard.tar::member``."""
        row = self._row(i)
        return os.fsdecode(self._source(row).location(self._name(row), int(row["position"])))

    def read(self, i: SupportsIndex, *, max_file_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The encoded image.

        Raises:
            ImageError: It is missing, unreadable, empty, or larger than ``max_file_bytes``.
        """
        row = self._row(i)
        return self._source(row).read(
            self._name(row),
            position=int(row["position"]),
            size=int(row["size"]),
            max_file_bytes=max_file_bytes,
        )

    def expect(self, indices: Sequence[int] | Integer[np.ndarray, " expected"]) -> None:
        """Let the system fetch members of shards that will be read soon, neighbours in one go.

        This returns at once and changes nothing but the time that reading takes.
        """
        if not len(indices) or not self._has_shards:
            return
        rows = self._rows[np.asarray(indices, dtype=np.int64)]
        rows = rows[np.lexsort((rows["position"], rows["source"]))]
        starts, ends, source = rows["position"], rows["position"] + rows["size"], rows["source"]
        parted = (source[1:] != source[:-1]) | (starts[1:] - ends[:-1] > _NEAR_BYTES)
        firsts = np.flatnonzero(np.concatenate([[True], parted]))
        lasts = np.append(firsts[1:], len(rows)) - 1
        for start, end, number in zip(
            starts[firsts].tolist(), ends[lasts].tolist(), source[firsts].tolist(), strict=True
        ):
            self._sources[number].expect(position=start, size=end - start)

    def stat(self, i: SupportsIndex) -> tuple[int, int]:
        """Bytes of the encoded image and its time of modification in nanoseconds, unread.

        A member of a shard has the time of the shard. A row of a table has the time of the table,
        and -1 bytes, because only reading it would tell.

        Raises:
            ImageError: The image file is missing or unreadable.
        """
        row = self._row(i)
        return self._source(row).status(self._name(row), size=int(row["size"]))

    def place(self, i: SupportsIndex) -> tuple[bytes, bytes]:
        """The folder of the source, and the path below it of the file that holds the image."""
        row = self._row(i)
        source = self._source(row)
        return source.folder, source.file_name(self._name(row))

    def files(self) -> np.ndarray:
        """The device and inode of each image's file, and the position of the image inside.

        Names of the same image, through links or in other spellings, have the same three numbers.
        """
        holders: dict[int, tuple[int, int]] = {}
        missing: dict[bytes, int] = {}
        told = []
        numbers = self._rows["source"].tolist()
        for name, number in zip(self._slices(self._rows), numbers, strict=True):
            file = holders.get(number)
            if file is None:
                source = self._sources[number]
                file = device_and_inode(source.path(name), missing)
                if source.is_holder:
                    holders[number] = file
            told.append(file)
        found = np.empty(len(self), dtype=FILE)
        found["device"], found["inode"] = np.array(told, dtype=np.uint64).reshape(-1, 2).T
        found["position"] = self._rows["position"]
        return found

    def labels(self) -> tuple[Int32[np.ndarray, " images"], tuple[str, ...]] | None:
        """The class of each image, and the names of the classes that the numbers index.

        The class is the folder directly below the root, the ``.cls`` member of a shard, or the
        column ``label`` of a table. Names are sorted by their bytes; two lists number alike only
        if they hold the same classes, so compare names across lists.

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

    @functools.cached_property
    def sources(self) -> tuple[str, ...]:
        """Folders, shards and tables of the images by their real paths, each once."""
        return tuple(dict.fromkeys(os.fsdecode(path) for path in self._source_paths))

    def source(self, i: SupportsIndex) -> int:
        """Number in ``sources`` of the source that an image is of."""
        return int(self._source_numbers[int(self._row(i)["source"])])

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the names in their order, and which share a source.

        Where the sources lie does not count.
        """
        sources = self._source_numbers[self._rows["source"]]
        return names_fingerprint(self._rows["length"], self._names, sources)

    def select(self, indices: Sequence[int] | Integer[np.ndarray, " chosen"]) -> "ImageList":
        """The images at these positions, in this order; repeats are allowed."""
        chosen = np.asarray(indices, dtype=np.int64)
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            bad = chosen[(chosen < 0) | (chosen >= len(self))][0]
            raise IndexError(f"expected positions from 0 to {len(self) - 1}, got {bad}")
        rows = self._rows[chosen]
        names = b"".join(self._slices(rows))
        place_names(rows)
        return ImageList(names, rows, self._sources, self._row_labels)

    @functools.cached_property
    def _source_paths(self) -> tuple[bytes, ...]:
        return tuple(os.path.realpath(source.origin) for source in self._sources)

    @functools.cached_property
    def _source_numbers(self) -> Int32[np.ndarray, " sources"]:
        numbers = {path: number for number, path in enumerate(dict.fromkeys(self._source_paths))}
        return np.array([numbers[path] for path in self._source_paths], dtype=np.int32)

    def _row(self, i: SupportsIndex) -> np.void:
        if not 0 <= index(i) < len(self):
            raise IndexError(f"expected a position from 0 to {len(self) - 1}, got {i}")
        row: np.void = self._rows[i]
        return row

    def _source(self, row: np.void) -> Source:
        return self._sources[int(row["source"])]

    def _name(self, row: np.void) -> bytes:
        return self._names[row["start"] : row["start"] + row["length"]]

    def _slices(self, rows: np.ndarray) -> Iterator[bytes]:
        """The names of many rows: through Python integers, five times faster than one by one."""
        for some in np.array_split(rows, len(rows) // _ROWS_AT_ONCE + 1):
            starts, ends = some["start"], some["start"] + some["length"]
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                yield self._names[start:end]

    def _labels(self) -> Iterator[bytes | None]:
        told = np.array([source.has_row_labels for source in self._sources])
        for name, is_told, label in zip(
            self._slices(self._rows),
            told[self._rows["source"]].tolist(),
            self._rows["label"].tolist(),
            strict=True,
        ):
            if is_told:
                yield self._row_labels[label] if label >= 0 else None
            else:
                yield top_folder(name)


def list_images(
    sources: str | Path | Sequence[str | Path], *, image_column: str | None = None
) -> ImageList:
    """Find the images of folders, list files, tar shards, tables and single files.

    - A folder is searched with all its subfolders. Links are followed, each real folder counts
      once, hidden files and folders do not count. A broken link named like an image is listed,
      so that it is reported when it is read.
    - A ``.tar`` file is a WebDataset shard: its image members count, and ``KEY.cls`` or
      ``KEY.json`` beside ``KEY.jpg`` tells the class. A link inside is one image with its target.
    - A ``.parquet`` file is a table. Encoded images are bytes or ``{bytes, path}``, one a row or
      a list, in the first usual column that fits: ``image``, ``img``, ``images``, ``jpg`` ...;
      where ``bytes`` is null the file at ``path`` is read. Without one, the first of ``path``,
      ``image_path``, ``file_path``, ``file_name`` and ``filename`` holds paths, absolute or
      relative to the table's own folder. Encoded images are named after their path, or their row
      where paths are missing or repeat. A column ``label``, ``labels``, ``cls``, ``class`` or
      ``fine_label`` is the class; -1 is none.
    - A file with the suffix of an image is that image.
    - Any other file is a list: one path a line, absolute or relative to the list's own folder.
    - What does not exist and holds ``*``, ``?``, ``[`` or braces is a pattern, as in a shell.
      Image files that it matches are one source, below the folder before its first special
      character; each folder, shard and table that it matches is a source of its own, after them.
      ``**`` stands for any number of folders. Other files count only as lists, and only if the
      pattern spells out their suffix.

    Args:
        sources: One or several, in the order wanted; each is sorted by the bytes of its names.
        image_column: The column of tables that holds the images or their paths; None for the usual
            ones.

    Raises:
        DataError: A source is missing, unreadable, damaged, or holds no image; a pattern matches
            nothing; a table has no column of a usual name, or lacks ``image_column``.
    """
    if isinstance(sources, str | Path):
        sources = [sources]
    if not sources:
        raise DataError("expected at least one folder, list file or .tar of images, got none")
    found = [part for source in sources for part in found_at(source, image_column=image_column)]
    rows, labels = rows_of(found)
    names = b"".join([part.names for part in found])
    return ImageList(names, rows, tuple(part.source for part in found), labels)
