"""The file ``HEAD``: which base and which operations after it make the present state.

It is the one place where a change becomes true, and the anchor that a truncated or edited file
does not match. Two slots of a fixed size are written in turn, so that a torn write leaves the
other one whole: the state before the last change, or, as the operation itself is in the log by
then, the change in full.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from dino_app.errors import StoreError

NAME = "HEAD"
_SLOT_BYTES = 1024
_CHECK_BYTES = 64
_LIMIT = 1 << 63
_HASH = re.compile(r"[0-9a-f]{64}")
_BASE = re.compile(r"base-\d{6,}")  # no way out of the folder


@dataclass(frozen=True, kw_only=True)
class Head:
    """One state of a store."""

    commit: int
    """Counts changes of this file."""
    base: str
    """Name of the folder of the base."""
    manifest_sha256: str
    base_sequence: int
    """The last operation that is part of the base."""
    base_chain: str
    """Chained hash of all operations up to that one."""
    log: int
    """Number of the first log with operations after the base."""
    sequence: int
    """The last operation that was acknowledged."""
    chain: str
    """Chained hash of all operations up to that one."""
    epoch: int = 0
    """Counts restored snapshots, after which sequence numbers come again."""

    @property
    def version(self) -> str:
        """Name of the state, which changes with every operation."""
        return f"{self.epoch}.{self.sequence}"


class HeadFile:
    """``HEAD`` of a folder, open for as long as the store is."""

    def __init__(self, folder: Path, *, writable: bool) -> None:
        """Opens it, and creates it when writable.

        Raises:
            OSError: It cannot be opened.
        """
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        self._file = os.open(folder / NAME, flags | os.O_CLOEXEC, 0o644)

    def raw(self) -> bytes:
        """Return its bytes, cheap enough to ask before every search."""
        return os.pread(self._file, 2 * _SLOT_BYTES, 0)

    def read(self) -> Head:
        """The newest whole slot.

        Raises:
            StoreError: There is none.
        """
        return head_of(self.raw())

    def write(self, head: Head) -> None:
        """Make a state the present one, for good when this returns.

        Raises:
            OSError: It cannot be written.
        """
        os.pwrite(self._file, _slot(head), head.commit % 2 * _SLOT_BYTES)
        os.fdatasync(self._file)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def head_of(raw: bytes) -> Head:
    """The newest whole slot of a ``HEAD``.

    Raises:
        StoreError: There is none.
    """
    heads = heads_of(raw)
    if not heads:
        raise StoreError("HEAD is damaged")
    return max(heads, key=lambda head: head.commit)


def heads_of(raw: bytes) -> list[Head]:
    """All whole slots of a ``HEAD``."""
    slots = [raw[:_SLOT_BYTES], raw[_SLOT_BYTES : 2 * _SLOT_BYTES]]
    return [head for slot in slots if (head := _head(slot)) is not None]


def first_slots(head: Head) -> bytes:
    """A whole file that holds one state."""
    return _slot(head) * 2


def _slot(head: Head) -> bytes:
    text = json.dumps(asdict(head)).encode()
    text = text.ljust(_SLOT_BYTES - _CHECK_BYTES - 1) + b"\n"
    return text + hashlib.sha256(text).hexdigest().encode()


def _head(slot: bytes) -> Head | None:
    text, check = slot[:-_CHECK_BYTES], slot[-_CHECK_BYTES:]
    if len(slot) != _SLOT_BYTES or hashlib.sha256(text).hexdigest().encode() != check:
        return None
    try:
        head = Head(**json.loads(text))
        return head if _is_sound(head) else None
    except (TypeError, ValueError, RecursionError):  # other fields, or other types
        return None


def _is_sound(head: Head) -> bool:
    numbers = (head.commit, head.base_sequence, head.log, head.sequence, head.epoch)
    hashes = (head.manifest_sha256, head.base_chain, head.chain)
    return (
        all(type(number) is int and 0 <= number < _LIMIT for number in numbers)
        and all(_HASH.fullmatch(digest) for digest in hashes)
        and _BASE.fullmatch(head.base) is not None
    )
