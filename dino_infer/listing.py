"""Find images in folders, list files and tar shards; a list compact enough for millions."""

import hashlib
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from dino_infer import shards
from dino_infer.errors import DataError, ImageError
from dino_infer.images import IMAGE_SUFFIXES, file_bytes

logger = logging.getLogger(__name__)

_SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
_ARCHIVES = (b".tar.gz", b".tgz", b".tar.bz2", b".tbz2", b".tar.xz", b".txz", b".tar.zst", b".zip")
_UNREAD_PICTURES = (b".heic", b".heif", b".jxl", b".dng", b".cr2", b".cr3", b".nef", b".arw")


@dataclass(frozen=True)
class _Source:
    """A folder whose names are relative to it, or a shard whose members are read by position."""

    folder: bytes
    shard: shards.Shard | None = None


class _Found:
    """What one source holds, before it is packed."""

    source: _Source
    names: list[bytes]
    spans
    labels


class ImageList:
    """The names and places of images, in order.

    Names are kept in one block of bytes instead of a Python object each: a million paths take
    about 60 MB, pickle at once, and stay shared between forked processes.
    """

    def __init__(
        self,
        *,
        names: bytes,
        bounds: Int64[np.ndarray, " images_and_1"],
        sources: tuple[_Source, ...],
        source_of: Int32[np.ndarray, " images"],
        spans: Int64[np.ndarray, "images 2"] | None = None,
        tags: ...
    ) -> None:
