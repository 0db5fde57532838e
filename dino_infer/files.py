"""Files that are whole or not there (write beside the target, sync, rename), one writer each."""

import json
import logging
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dino_infer.errors import OutputInUseError

logger = logging.getLogger(__name__)

_held: set[Path] = set()
"""Lock files that this process holds: the system lets a process lock a file again."""


def why_not_writable(folder: Path) -> str:
    """Why a folder takes no new file; empty if it does."""
    try:
        tempfile.TemporaryFile(dir=folder).close()  # permissions alone tell root nothing
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    The temporary name keeps the suffix, because writers choose formats by it. The data reaches
    the disk before the name changes; after an error nothing is left behind and an older file of
    that name is untouched.

    Raises:
        OSError: Nothing can be written there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.dino-tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends well.

    All that is in it reaches the disk before the name changes; after an error nothing is left
    behind.

    Raises:
        OSError: Nothing can be written there, or by then something but an empty folder is there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.dino-tmp-folder")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process of the same number
    make_folder(path.parent)
    temporary.mkdir()
    try:
        yield temporary
        _sync_all(temporary)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents where they are missing; they survive a power cut.

    Raises:
        OSError: It cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Create or replace a file with these bytes."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Create or replace a file with JSON that people can read, keys in the order given."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def check_zip(path: str | Path) -> None:
    """Compare all records of a zip archive with their checksums: ``torch.load`` does not.

    Files that ``torch.save`` wrote without checksums, a setting of PyTorch, pass.

    Raises:
        zipfile.BadZipFile: A record is damaged, the archive is cut short, or its records would
            take more room than the file, which those of ``torch.save`` never do.
        OSError: It cannot be read.
    """
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            records = archive.infolist()
            if sum(record.file_size for record in records) > size:
                raise zipfile.BadZipFile("its records would unpack to more than the file")
            damaged = archive.testzip() if any(record.CRC for record in records) else None
        except (OSError, EOFError, RuntimeError, ValueError, zlib.error) as error:
            raise zipfile.BadZipFile(str(error)) from error
    if damaged is not None:
        raise zipfile.BadZipFile(f"record {damaged!r} does not match its checksum")


def remove_leftovers(*targets: Path) -> None:
    """Delete what killed processes left of ``whole_file`` and ``whole_folder`` for these targets.

    Call it as the only writer of the targets, see ``hold_output``: files of a living process that
    writes one of them would go too. Files of other names are left alone.

    Raises:
        OSError: A folder cannot be read, or a leftover cannot be deleted.
    """
    for target in targets:
        ours = re.compile(
            re.escape(f".{target.stem}.") + r"\d+\.dino-tmp" + re.escape(target.suffix)
        )
        folders = re.compile(re.escape(f".{target.name}.") + r"\d+\.dino-tmp-folder")
        for file in target.parent.iterdir() if target.parent.is_dir() else ():
            if ours.fullmatch(file.name) and file.is_file():
                file.unlink()
            elif folders.fullmatch(file.name) and file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)


@contextmanager
def hold_output(output: str | Path, *, beside: bool = False) -> Iterator[None]:
    """Be the only process that writes to ``output`` until the block ends.

    The lock, a hidden file that is deleted at the end, goes when the process does, however it
    ends; processes that it forks do not inherit it. Where the file system cannot lock, a warning
    says so and the block runs all the same.

    Args:
        output: A folder that exists, or a file, which need not.
        beside: Keep the lock of a folder beside it, because it will be made or replaced.

    Raises:
        OutputInUseError: Another process, or this one, holds it.
        OSError: Nothing can be written there.
    """
    output = Path(output).absolute()
    inside = output.is_dir() and not beside
    lock = output / ".dino-lock" if inside else output.with_name(f".{output.name}.dino-lock")
    if lock in _held:
        raise OutputInUseError(f"this process already writes to {str(output)!r}")
    descriptor = _lock(lock, output)
    _held.add(lock)
    try:
        yield
    finally:
        _held.discard(lock)
        with suppress(FileNotFoundError):  # its folder may have been moved away
            lock.unlink()
        os.close(descriptor)


def _lock(lock: Path, output: Path) -> int:
    """A descriptor of the lock file, which names this process and is locked by it."""
    import fcntl  # not on Windows, where the rest of this module works

    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(descriptor, 20).decode(errors="replace") or "unknown"
            os.close(descriptor)
            raise OutputInUseError(
                f"{str(output)!r} is in use: process {holder} writes to it; wait until it ends, "
                "or choose another output"
            ) from error
        except OSError as error:
            logger.warning("cannot lock %s (%s): keep other processes away", output, error.strerror)
        if _is_at(descriptor, lock):
            os.truncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor
        os.close(descriptor)  # its last holder deleted it between our two calls


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    """Let what was made, renamed and deleted in a folder survive a power cut.

    It does nothing where the system cannot open folders.
    """
    if hasattr(os, "O_DIRECTORY"):
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync_all(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            _sync(Path(place, name), os.O_RDONLY)
        sync_folder(Path(place))


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lines_of(path: Path) -> list[bytes]:
    """Lines of a file without their ends, blank ones included; none if there is no file."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return lines if lines[-1] else lines[:-1]


def parsed_object(line: bytes) -> dict[str, Any] | None:
    """Object that a line holds, or None if it is damaged."""
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
