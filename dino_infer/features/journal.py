"""The journal of an unfinished feature set: how much of its files is safe, with checksums.

Each line tells of everything before it, and carries a checksum of itself. A set goes on from the
last line that its files bear out; what follows is cut off.
"""

import dataclasses
import json
import logging
import os
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

JOURNAL = "journal.jsonl"
ROWS, TABLE, FAILED = "rows", "table.jsonl", "failed.jsonl"
APPENDED = (ROWS, TABLE, FAILED)
_CHUNK = 1 << 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Done:
    """A line of the journal: what is safely on disk."""

    images: int = 0
    """Number of images of the list that have a row or failed."""
    shape: tuple[int, ...] = (0,)
    """Shape of the matrix so far."""
    failed: int = 0
    odd_names: bool = False
    """True if some name is not valid UTF-8."""
    sizes: tuple[int, ...] = (0, 0, 0)
    """Bytes of ``APPENDED`` that count."""
    checksums: tuple[int, ...] = (0, 0, 0)
    """CRC-32 of these bytes; without the header of the matrix, which is written last."""


class AppendedFile:
    """A file that grows, with the checksum of what it holds.

    Args:
        path: Made if need be.
        size: Bytes to keep: more are cut off, missing ones are blank.
        checksum: Checksum of its content.
    """

    def __init__(self, path: Path, *, size: int, checksum: int) -> None:
        if not path.exists():
            path.write_bytes(bytes(size))
        os.truncate(path, size)
        self._file = path.open("ab", buffering=_CHUNK)
        self.checksum = checksum

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._file.write(data)
        self.checksum = zlib.crc32(data, self.checksum)

    def sync(self) -> int:
        """Make what was written survive any stop; returns the size."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Write what is pending, and close."""
        self._file.close()


def open_appended(folder: Path, done: Done, opened: ExitStack) -> list[AppendedFile]:
    """The files of ``APPENDED``, cut to what is done; the stack closes them."""
    files = []
    for name, size, checksum in zip(APPENDED, done.sizes, done.checksums, strict=True):
        files.append(AppendedFile(folder / name, size=size, checksum=checksum))
        opened.callback(files[-1].close)
    return files


def journal_line(done: Done) -> bytes:
    """A line that ``recover_journal`` reads."""
    fields = dataclasses.asdict(done)
    return json.dumps(fields | {"checksum": _checksum_of(fields)}).encode() + b"\n"


def recover_journal(folder: Path, *, header_size: int) -> Done:
    """The last state that the journal tells and the files bear out; cuts the journal after it.

    Args:
        folder: Folder of the unfinished set.
        header_size: Bytes before the first row.
    """
    journal = folder / JOURNAL
    best, end, position, damaged = Done(sizes=(header_size, 0, 0)), 0, 0, False
    with ExitStack() as files:
        prefixes = [_Prefix(files, folder / name) for name in APPENDED]
        prefixes[0].skip(header_size)
        for line in _lines(journal):
            position += len(line)
            done = _done_of(line)
            if done is None:
                damaged = True  # the next line tells of the same bytes and more
            elif all(map(_Prefix.has, prefixes, done.sizes, done.checksums)):
                best, end = done, position
            else:
                damaged = True
                break
    if damaged:
        logger.warning("%s is damaged: going on after %d images", folder, best.images)
    if end:
        os.truncate(journal, end)
    else:
        journal.unlink(missing_ok=True)
    return best


class _Prefix:
    """The beginning of a file, read on as far as it is asked about."""

    def __init__(self, files: ExitStack, path: Path) -> None:
        self._file: BinaryIO | None = None
        if path.is_file():
            self._file = files.enter_context(path.open("rb"))
        self._size = self._checksum = 0

    def skip(self, size: int) -> None:
        """Leave bytes out of the checksum."""
        if self._file is not None:
            self._file.seek(size)
        self._size = size

    def has(self, size: int, checksum: int) -> bool:
        """True if the first bytes are there and have this checksum."""
        while self._file is not None and self._size < size:
            data = self._file.read(min(_CHUNK, size - self._size))
            if not data:
                return False
            self._size += len(data)
            self._checksum = zlib.crc32(data, self._checksum)
        return (self._size, self._checksum) == (size, checksum)


def _lines(journal: Path) -> list[bytes]:
    """The whole lines; a stop may have torn the last."""
    data = journal.read_bytes() if journal.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def _done_of(line: bytes) -> Done | None:
    """Parse a line of ``journal_line``; None if it is damaged."""
    try:
        fields = json.loads(line)
        checksum = fields.pop("checksum")
        if checksum != _checksum_of(fields):
            return None
        lists = {name: tuple(fields[name]) for name in ("shape", "sizes", "checksums")}
        return Done(**(fields | lists))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _checksum_of(fields: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(fields).encode())
