"""Places of images: a folder, a tar shard or a table; one way to read them all."""

import os
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64

from dino_infer.images import read as images
from dino_infer.sources import parquet, tars


@dataclass(frozen=True)
class Source:
    """A folder that names are relative to, or a file that holds the images themselves."""

    folder: bytes
    shard: tars.Shard | None = None
    table: parquet.Table | None = None
    has_row_labels: bool = False
    """The class is told with each image, not by the folder that it lies in."""

    @property
    def is_holder(self) -> bool:
        """True if one file holds all the images."""
        return self.shard is not None or self.table is not None

    def file_name(self, name: bytes) -> bytes:
        """The file of an image, or the one that holds it, below the folder."""
        return name.split(b"/", 1)[0] if self.is_holder else name

    def path(self, name: bytes) -> bytes:
        """Path of that file."""
        return os.path.join(self.folder, self.file_name(name))

    @property
    def origin(self) -> bytes:
        """The folder, shard or table."""
        holder = self.shard or self.table
        return self.folder if holder is None else holder.path

    def location(self, name: bytes, position: int) -> bytes:
        """Place of an image, for messages."""
        if self.shard is not None:
            return self.shard.path + b"::" + name.split(b"/", 1)[1]
        if self.table is not None:
            return self.table.path + b"::%d" % position
        return self.path(name)

    def read(self, name: bytes, *, position: int, size: int, max_file_bytes: int) -> bytes:
        """An encoded image.

        Raises:
            ImageError: It is missing, unreadable, empty, or too large.
        """
        shown = os.fsdecode(name)
        if self.shard is not None:
            images.check_size(size, name=shown, max_file_bytes=max_file_bytes)
            return tars.read_member(self.shard, offset=position, size=size, name=shown)
        if self.table is not None:
            row = parquet.read_row(self.table, position, name=shown, max_file_bytes=max_file_bytes)
            return row
        return images.file_bytes(self.path(name), name=shown, max_file_bytes=max_file_bytes)

    def expect(self, *, position: int, size: int) -> None:
        """Let the system fetch a stretch of a shard; other places are read when they are read."""
        if self.shard is not None:
            tars.expect_bytes(self.shard, offset=position, size=size)

    def status(self, name: bytes, *, size: int) -> tuple[int, int]:
        """Bytes and time of modification; what lies in a file has that file's time.

        Raises:
            ImageError: The image file is missing or unreadable.
        """
        holder = self.shard or self.table
        if holder is not None:
            return size, holder.modified_ns
        return images.file_status(self.path(name), name=os.fsdecode(name))


@dataclass(frozen=True)
class Found:
    """The images of one source, sorted by the bytes of their names."""

    source: Source
    names: bytes
    """All names, one after the other."""
    lengths: Int32[np.ndarray, " images"]
    """Bytes of each name."""
    spans: Int64[np.ndarray, "images 2"] | None = None
    """Offset and size of each member of a shard; row and -1 of each row of a table."""
    labels: list[bytes | None] | None = None
    """Class that is told with each image, or None, where ``source.has_row_labels``."""
