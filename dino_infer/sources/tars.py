"""WebDataset tar shards: one scan of the headers, then every member is read by its position."""

import functools
import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from dino_infer.errors import DataError, ImageError

logger = logging.getLogger(__name__)

BLOCK = 512
OPEN_SHARDS = 64
"""Shards that one process keeps open: far below the usual limit of 1,024 open files."""

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
_REGULAR, _NO_DATA = b"07\0", b"123456"
_HARD_LINK, _SOFT_LINK = b"1", b"2"
_LONGEST_CHAIN = 40  # links to links, as the kernel follows them
_LOOK_BEHIND = 1 << 20  # bytes; tar pads an archive by 10 kB as a rule
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"


@dataclass(frozen=True)
class Shard:
    """One tar file as it was when its headers were scanned."""

    path: bytes
    size: int
    modified_ns: int


class Member(NamedTuple):
    """A regular file inside a shard."""

    name: bytes
    offset: int
    size: int


class Contents(NamedTuple):
    """The files and links inside a shard."""

    members: list[Member]
    """Regular files, in their order; of several with one name the last, as tar extracts them."""
    links: list[Member]
    """Hard and symbolic links to those: the name of the link, the place of the file."""
    broken: list[bytes]
    """Names of links to what the shard does not hold."""
    replaced: int
    """Files that a later one of the same name takes the place of."""


def scan_shard(path: bytes) -> tuple[Shard, Contents]:
    """Every regular file of a tar (ustar, GNU or pax), and the links to them.

    Raises:
        DataError: The file is compressed, damaged, cut short, or holds sparse members.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"cannot read {os.fsdecode(path)!r}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        shard = Shard(path, status.st_size, status.st_mtime_ns)
        return shard, _contents(_entries(descriptor, shard))
    finally:
        os.close(descriptor)


def read_member(shard: Shard, *, offset: int, size: int, name: str) -> bytes:
    """The bytes at a position of a shard; safe in threads, forked and spawned processes.

    Raises:
        ImageError: The shard is gone, unreadable, or not the file that was scanned; or no byte.
    """
    if size == 0:
        raise ImageError(name, "empty", "the member has 0 bytes")
    try:
        data = _opened(shard).pread(size, offset)
    except FileNotFoundError as error:
        raise ImageError(name, "missing", f"no such file: {os.fsdecode(shard.path)!r}") from error
    except OSError as error:
        reason = f"cannot read {os.fsdecode(shard.path)!r}: {error.strerror or error}"
        raise ImageError(name, "unreadable", reason) from error
    if len(data) != size:
        raise ImageError(name, "unreadable", f"expected {size} bytes, the shard has {len(data)}")
    return data


def expect_bytes(shard: Shard, *, offset: int, size: int) -> None:
    """Let the system fetch a stretch of a shard ahead of its reading, where it can do so."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):  # reading will say what is wrong
            _opened(shard).expect(offset, size)


class _OpenShard:
    """An open file that closes when it left the cache and the last thread that reads is done."""

    def __init__(self, shard: Shard) -> None:
        self._descriptor = os.open(shard.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if (status.st_size, status.st_mtime_ns) != (shard.size, shard.modified_ns):
            raise OSError("the shard has changed since it was listed")

    def pread(self, size: int, offset: int) -> bytes:
        # As a method, this keeps the object alive, and so the file open, until the read is over.
        return os.pread(self._descriptor, size, offset)

    def expect(self, offset: int, size: int) -> None:
        os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)


_opened = functools.lru_cache(maxsize=OPEN_SHARDS)(_OpenShard)


def _contents(entries: Iterator[tuple[Member, bytes]]) -> Contents:
    """Sort the entries of a tar into files and links; a later name replaces an earlier one."""
    regular: dict[bytes, Member] = {}
    targets: dict[bytes, bytes] = {}
    replaced = 0
    for member, target in entries:
        if target == member.name:  # tar writes a file that it was given twice as a link to itself
            continue
        replaced += regular.pop(member.name, None) is not None
        targets.pop(member.name, None)
        if target:
            targets[member.name] = target
        else:
            regular[member.name] = member
    links, broken = [], []
    for name in targets:
        file = regular.get(_followed(name, targets))
        if file is None:
            broken.append(name)
        else:
            links.append(file._replace(name=name))
    return Contents(list(regular.values()), links, broken, replaced)


def _followed(name: bytes, targets: dict[bytes, bytes]) -> bytes:
    """The name at the end of a chain of links; one in a circle ends at a link."""
    for _ in range(_LONGEST_CHAIN):
        if name not in targets:
            break
        name = targets[name]
    return name


def _entries(descriptor: int, shard: Shard) -> Iterator[tuple[Member, bytes]]:
    """Each regular file, and each link with the name that it links to."""
    position, long_name, long_target, long_size = 0, b"", b"", -1
    while position < shard.size:
        header = os.pread(descriptor, BLOCK, position)
        if not any(header):
            _check_end(descriptor, shard, position)
            return  # two blocks of zeros end an archive; some writers leave the second away
        kind, size = _checked(header, shard, position)
        size = long_size if long_size >= 0 else size
        data = position + BLOCK
        if kind in _NO_DATA:
            size = 0
        if data + size > shard.size:
            raise _damaged(shard, f"cut short: {data + size} bytes expected, {shard.size} found")
        position = data + -(-size // BLOCK) * BLOCK
        if kind == _LONG_NAME:
            long_name = os.pread(descriptor, size, data).split(b"\0", 1)[0]
        elif kind == _LONG_LINK:
            long_target = os.pread(descriptor, size, data).split(b"\0", 1)[0]
        elif kind == _PAX:
            record = _pax_record(os.pread(descriptor, size, data), shard)
            long_name, long_target = record.path or long_name, record.target or long_target
            long_size = record.size
        elif kind != _PAX_GLOBAL:
            name = (long_name or _short_name(header)).removeprefix(b"./")
            target = long_target or header[157:257].split(b"\0", 1)[0]
            if kind in _REGULAR and not name.endswith(b"/"):
                yield Member(name, data, size), b""
            elif kind in (_HARD_LINK, _SOFT_LINK) and target:
                yield Member(name, data, 0), _target(name, target, kind)
            long_name, long_target, long_size = b"", b"", -1


def _target(name: bytes, target: bytes, kind: bytes) -> bytes:
    """The member that a link means: symbolic ones start at their own folder."""
    if kind == _SOFT_LINK:
        target = os.path.join(os.path.dirname(name), target)
    return os.path.normpath(target)


def _check_end(descriptor: int, shard: Shard, position: int) -> None:
    """Warn of a second archive behind the end, as `cat a.tar b.tar` leaves it."""
    seen = os.pread(descriptor, _LOOK_BEHIND, position)
    if behind := seen.lstrip(b"\0"):
        logger.warning(
            "%r: %d bytes behind the end of the archive are not read; join tars with tar -A",
            os.fsdecode(shard.path),
            shard.size - position - len(seen) + len(behind),
        )


def _checked(header: bytes, shard: Shard, position: int) -> tuple[bytes, int]:
    """The type and size in a header whose checksum is right."""
    if position == 0 and header.startswith(_COMPRESSED):
        raise DataError(
            f"expected an uncompressed tar, got a compressed {os.fsdecode(shard.path)!r}: "
            "unpack it first (images gain nothing from it)"
        )
    if len(header) < BLOCK:
        raise _damaged(shard, f"cut short in the header at byte {position}")
    try:
        size, checksum = _number(header[124:136]), _number(header[148:156])
    except ValueError:
        raise _damaged(shard, f"no tar header at byte {position}") from None
    plain = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if checksum != plain:
        signed = plain - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
        if checksum != signed:  # some old writers summed signed bytes
            raise _damaged(shard, f"wrong checksum in the header at byte {position}")
    kind = header[156:157]
    if kind == b"S":
        raise _sparse(shard)
    return kind, size


def _number(field: bytes) -> int:
    """An octal number, or the binary form for sizes of 8 GiB and more."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _short_name(header: bytes) -> bytes:
    name, prefix = header[:100].split(b"\0", 1)[0], header[345:500].split(b"\0", 1)[0]
    has_prefix = prefix and header[257:263] == b"ustar\0"  # GNU keeps other things there
    return prefix + b"/" + name if has_prefix else name


class _PaxRecord(NamedTuple):
    """The parts of an extended header that are used; empty, or -1, where it has none."""

    path: bytes = b""
    target: bytes = b""
    size: int = -1


def _pax_record(body: bytes, shard: Shard) -> _PaxRecord:
    record = _PaxRecord()
    try:
        while body:
            length = int(body[: body.index(b" ")])
            if length < 5:  # "5 x=\n" is the shortest record
                raise ValueError
            key, value = body[body.index(b" ") + 1 : length - 1].split(b"=", 1)
            if key == b"path":
                record = record._replace(path=value)
            elif key == b"linkpath":
                record = record._replace(target=value)
            elif key == b"size":
                record = record._replace(size=int(value))
            elif key.startswith(b"GNU.sparse."):
                raise _sparse(shard)
            body = body[length:]
    except ValueError:
        raise _damaged(shard, "unreadable extended header") from None
    return record


def _damaged(shard: Shard, reason: str) -> DataError:
    return DataError(f"damaged tar {os.fsdecode(shard.path)!r}: {reason}; fetch it again")


def _sparse(shard: Shard) -> DataError:
    return DataError(f"{os.fsdecode(shard.path)!r} has sparse members: write it without tar -S")
