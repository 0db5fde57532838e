"""What one data source holds: a folder, a list file, a tar shard, or a single image."""

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from dino_infer import shards
from dino_infer.errors import DataError
from dino_infer.images import IMAGE_SUFFIXES

logger = logging.getLogger(__name__)

_SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
_UNREAD_PICTURES = (b".heic", b".heif", b".jxl", b".svg", b".psd", b".dng", b".cr2", b".nef")
_ARCHIVES = (b".gz", b".tgz", b".bz2", b".xz", b".zst", b".zip", b".7z", b".rar")
_LARGEST_LABEL = 1024


@dataclass(frozen=True)
class Source:
    """A folder that names are relative to, or a shard whose members are read by position."""

    folder: bytes
    shard: shards.Shard | None = None


@dataclass(frozen=True)
class Found:
    """The images of one source, sorted by the bytes of their names."""

    source: Source
    names: bytes
    """All names, one after the other."""
    lengths: Int32[np.ndarray, " images"]
    """Bytes of each name."""
    spans: Int64[np.ndarray, "images 2"] | None = None
    """Offset and size of each member of a shard."""
    labels: list[bytes | None] | None = None
    """What the ``.cls`` file of each member says, where a shard has such files."""


def found_in(source: str | Path) -> Found:
    """The images of one source; ``list_images`` says what counts.

    Raises:
        DataError: The source is missing, unreadable, damaged, or holds no image.
    """
    try:
        path = os.path.abspath(os.fsencode(source))
        mode = os.stat(os.fsencode(source)).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL inside
        raise DataError(f"cannot read the data source {str(source)!r}: {_cause(error)}") from error
    suffix = os.path.splitext(path)[1].lower()
    if stat.S_ISDIR(mode):
        return _in_folder(path)
    if not stat.S_ISREG(mode):
        raise DataError(f"expected a folder or a regular file of images, got {str(source)!r}")
    if suffix == b".tar":
        return _in_shard(path)
    if suffix in _SUFFIXES:
        return _files(os.path.dirname(path), [os.path.basename(path)])
    if suffix in _ARCHIVES:
        raise DataError(f"expected a folder, a list file or a .tar, got {str(source)!r}: unpack it")
    return _in_list_file(path)


def _files(folder: bytes, names: list[bytes]) -> Found:
    return Found(Source(folder), b"".join(names), _lengths(names))


def _lengths(names: list[bytes]) -> Int32[np.ndarray, " images"]:
    return np.fromiter(map(len, names), dtype=np.int32, count=len(names))


def _in_folder(root: bytes) -> Found:
    skipped: Counter[bytes] = Counter()
    names = list(_walk(root, skipped))
    others = ", ".join(
        f"{count} {os.fsdecode(suffix) or 'without suffix'}"
        for suffix, count in skipped.most_common(5)
    )
    if not names:
        hint = f"; it holds other files: {others}" if others else ""
        if skipped[b".tar"]:
            hint += "; give .tar shards by name, such as FOLDER/*.tar"
        raise DataError(f"no image in {os.fsdecode(root)!r}{hint}")
    if others:
        level = logging.WARNING if any(s in skipped for s in _UNREAD_PICTURES) else logging.INFO
        logger.log(level, "%r: skipped other files: %s", os.fsdecode(root), others)
    return _files(root, names)


def _walk(root: bytes, skipped: Counter[bytes]) -> Iterator[bytes]:
    """Names of images below a root, sorted by the bytes of the whole relative path."""
    seen: set[tuple[int, int]] = set()
    pending = [b""]
    while pending:
        name = pending.pop()
        if name and not name.endswith(b"/"):
            yield name
            continue
        try:
            pending += [name + entry for entry in _entries(os.path.join(root, name), seen, skipped)]
        except OSError as error:
            if not name:
                raise DataError(f"cannot read {os.fsdecode(root)!r}: {_cause(error)}") from error
            folder = os.fsdecode(os.path.join(root, name))
            logger.warning("left out the folder %r: %s", folder, _cause(error))


def _entries(folder: bytes, seen: set[tuple[int, int]], skipped: Counter[bytes]) -> list[bytes]:
    """Images and subfolders of one folder, last first; subfolders end with a slash."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in seen:
        logger.info("%r is a folder that was listed already", os.fsdecode(folder))
        return []
    seen.add((status.st_dev, status.st_ino))
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            if _is_folder(entry):
                # The slash also sorts the folder as it will stand in the paths below it.
                names.append(entry.name + b"/")
            elif not entry.name.lower().endswith(_SUFFIXES):
                skipped[os.path.splitext(entry.name)[1].lower()] += 1
            elif entry.is_symlink() or entry.is_file():
                names.append(entry.name)
    return sorted(names, reverse=True)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False


def _in_list_file(path: bytes) -> Found:
    try:
        with open(path, "rb") as file:
            is_text = b"\0" not in file.read(4096)
            file.seek(0)
            data = file.read() if is_text else b""
    except OSError as error:
        raise DataError(f"cannot read {os.fsdecode(path)!r}: {_cause(error)}") from error
    if not is_text or b"\0" in data:
        raise DataError(
            f"expected a folder, a .tar, or a UTF-8 text file with one path a line, "
            f"got other data in {os.fsdecode(path)!r}"
        )
    lines = data.removeprefix(b"\xef\xbb\xbf").splitlines()
    names = sorted(line.removeprefix(b"./") for line in lines if line.strip())
    if not names:
        raise DataError(f"the list file {os.fsdecode(path)!r} names no image")
    return _files(os.path.dirname(path), names)


def _in_shard(path: bytes) -> Found:
    shard, members = shards.scan_shard(path)
    visible = [member for member in members if b"/." not in b"/" + member.name]
    images = sorted(member for member in visible if member.name.lower().endswith(_SUFFIXES))
    if not images:
        raise DataError(f"no image among the {len(members)} files in {os.fsdecode(path)!r}")
    labels = {
        _key(member.name): _label(shard, member)
        for member in visible
        if member.name.endswith(b".cls") and member.name == _key(member.name) + b".cls"
    }
    names = [os.path.basename(path) + b"/" + member.name for member in images]
    return Found(
        Source(os.path.dirname(path), shard),
        b"".join(names),
        _lengths(names),
        spans=np.array([member[1:] for member in images], dtype=np.int64),
        labels=[labels.get(_key(member.name)) for member in images] if labels else None,
    )


def _key(member: bytes) -> bytes:
    """What the files of one WebDataset sample share: the path up to the first dot of the name."""
    folder, slash, name = member.rpartition(b"/")
    return folder + slash + name.split(b".", 1)[0]


def _label(shard: shards.Shard, member: shards.Member) -> bytes | None:
    if not 0 < member.size <= _LARGEST_LABEL:
        return None
    data = shards.read_member(shard, offset=member.offset, size=member.size, name="")
    return data.strip() or None


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
