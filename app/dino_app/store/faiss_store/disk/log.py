"""Logs of operations: one record a call, appended and synced before the call returns.

A record is a header, JSON, the vectors, and a hash over all that and the hash before it, so that
nothing can be changed, left out or put in without notice. What a crash left behind an
acknowledged record is cut off before the next one is written.
"""

import errno
import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from dino_app.errors import StoreError

EMPTY_CHAIN = hashlib.sha256(b"dino-index").hexdigest()
_HEADER = struct.Struct("<8sQQQ")  # magic, sequence, bytes of JSON, bytes of vectors
_MAGIC = b"DINOLOG1"
_HASH_BYTES = 32
_NAME = re.compile(r"log-\d{6,}")


@dataclass(frozen=True, kw_only=True)
class Upsert:
    """Items that were added or replaced, as parallel lists."""

    ids: Sequence[str]
    vectors: Float32[np.ndarray, "rows dim"]
    metadata: Sequence[dict[str, Any]]
    pictures: Sequence[str | None]
    """Location of each thumbnail, as ``pictures`` writes it."""


@dataclass(frozen=True)
class Delete:
    """Items that were removed."""

    ids: Sequence[str]


Operation = Upsert | Delete


@dataclass(frozen=True)
class Record:
    """An operation in its place."""

    sequence: int
    chain: str
    operation: Operation
    end: int
    """Offset of the next record."""


def log_path(folder: Path, number: int) -> Path:
    """Path of a log."""
    return folder / f"log-{number:06d}"


def log_numbers(folder: Path) -> list[int]:
    """Numbers of the logs in a folder, sorted."""
    return sorted(int(path.name[4:]) for path in folder.iterdir() if _NAME.fullmatch(path.name))


class LogWriter:
    """Appends to one log."""

    def __init__(self, path: Path, *, end: int) -> None:
        """Opens or creates it, and cuts off what comes after its last record."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._end = end
        os.ftruncate(self._file, end)

    def append(self, sequence: int, chain: str, operation: Operation) -> str:
        """Write a record to the disk.

        Returns:
            Hash of this record.

        Raises:
            OSError: It cannot be written; nothing of it stays.
        """
        try:
            if not os.fstat(self._file).st_nlink:
                raise OSError(errno.ENOENT, "it was deleted while it was open")
            end, digest = self._written(sequence, chain, operation)
            os.fdatasync(self._file)
        except BaseException:
            os.ftruncate(self._file, self._end)
            raise
        self._end = end
        return digest

    def take_back(self, end: int) -> None:
        """Cut off records that were not acknowledged."""
        os.ftruncate(self._file, end)
        self._end = end

    @property
    def end(self) -> int:
        """Bytes in use."""
        return self._end

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _written(self, sequence: int, chain: str, operation: Operation) -> tuple[int, str]:
        text, vectors = _encoded(operation)
        parts = [
            _HEADER.pack(_MAGIC, sequence, len(text), vectors.nbytes),
            text,
            vectors.data.cast("B") if vectors.size else b"",
        ]
        hashed = hashlib.sha256(bytes.fromhex(chain))
        for part in parts:
            hashed.update(part)
        place = self._end
        for part in [*parts, hashed.digest()]:
            place = _write_all(self._file, part, place)
        return place, hashed.hexdigest()


def records(path: Path, *, start: int, sequence: int, chain: str, dim: int) -> Iterator[Record]:
    """The records of a log that are whole and continue a chain, up to the first that does not.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(start)
        while True:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            magic, number, text_bytes, vector_bytes = _HEADER.unpack(header)
            left = size - file.tell() - _HASH_BYTES
            if magic != _MAGIC or number != sequence + 1 or text_bytes + vector_bytes > left:
                return
            text, vectors = file.read(text_bytes), file.read(vector_bytes)
            digest = file.read(_HASH_BYTES)
            hashed = hashlib.sha256(bytes.fromhex(chain))
            for part in (header, text, vectors):
                hashed.update(part)
            if hashed.digest() != digest:
                return
            sequence, chain = number, hashed.hexdigest()
            yield Record(sequence, chain, _decoded(text, vectors, dim), file.tell())


def _encoded(operation: Operation) -> tuple[bytes, Float32[np.ndarray, "rows dim"]]:
    match operation:
        case Upsert():
            fields: dict[str, Any] = {
                "upsert": operation.ids,
                "metadata": operation.metadata,
                "pictures": operation.pictures,
            }
            vectors = np.ascontiguousarray(operation.vectors, dtype=np.float32)
        case Delete():
            fields, vectors = {"delete": operation.ids}, np.empty((0, 0), np.float32)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode(), vectors


def _decoded(text: bytes, vectors: bytes, dim: int) -> Operation:
    try:
        fields = json.loads(text)
        if "delete" in fields:
            return Delete(_list_of(str, fields["delete"]))
        rows = np.frombuffer(vectors, np.float32).reshape(-1, dim)
        found = Upsert(
            ids=_list_of(str, fields["upsert"]),
            vectors=rows,
            metadata=_list_of(dict, fields["metadata"]),
            pictures=_list_of(str | None, fields["pictures"]),
        )
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"a log has a record that no index writes: {error}") from error
    if not len(rows) == len(found.ids) == len(found.metadata) == len(found.pictures):
        raise StoreError(f"a log has {len(rows)} vectors for {len(found.ids)} ids")
    return found


def _list_of(kind: Any, values: Any) -> list[Any]:
    if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
        raise TypeError("a list is of another type")
    return values


def _write_all(file: int, data: Any, place: int) -> int:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, place)
        place, view = place + written, view[written:]
    return place
