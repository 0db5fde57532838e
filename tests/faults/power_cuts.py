"""What a power cut may leave of a folder, by the steps on disk that real writers took in it.

A file's content is safe once the file was synced, a name once its folder was: that is all that
POSIX promises. What is not safe may be there, in parts, in another order, or not at all, but a
name is never in two places or in none after a move, as on every file system with a journal.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import pytest

STEPS = ("replace", "rename", "link", "unlink", "mkdir", "rmdir", "truncate", "ftruncate")
STEPS += ("pwrite", "fsync", "fdatasync")
SECTOR = 512  # bytes that are written together or not at all
RANDOM_CUTS = 2  # of each moment, beside the extremes

Inode = tuple[int, int]
Change = tuple[Inode, str, Inode | None]
"""A name in a folder, and what it means from now on."""


class State(NamedTuple):
    """A folder after a cut."""

    files: tuple[tuple[str, Inode, bytes | None], ...]
    """Paths from the top down, what they are, and the content of files."""
    note: object
    """What the writer had been told by then."""

    def lay_out(self, folder: Path) -> Path:
        """Make this folder, in place of what is there."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        places: dict[Inode, Path] = {}
        for name, inode, content in self.files:
            if content is None:
                (folder / name).mkdir()
            elif inode in places:
                os.link(places[inode], folder / name)
            else:
                (folder / name).write_bytes(content)
                places[inode] = folder / name
        return folder


class PoweredFolder:
    """A folder whose steps are watched; all that is in it at the beginning is safe.

    Attributes:
        note: Set by the test to what its writer has been told so far: what was acknowledged.
    """

    def __init__(self, root: Path) -> None:
        self.note: object = None
        self._root = root
        self._open: dict[Inode, int] = {}  # so that no number of a file is given away again
        self._names: dict[Inode, dict[str, Inode]] = {}
        self._safe_names: dict[Inode, dict[str, Inode]] = {}
        self._safe_data: dict[Inode, bytes] = {}
        self._pending: list[list[Change]] = []
        self._states: dict[tuple, State] = {}
        self._random = random.Random(0)
        self._top = self._look_at(root)
        self._look()
        self._pending.clear()
        self._safe_names = {folder: dict(names) for folder, names in self._names.items()}
        self._safe_data = {inode: self._content(inode) for inode in self._files()}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch what this process does to the folder."""
        with pytest.MonkeyPatch.context() as patched:
            for name in STEPS:
                patched.setattr(os, name, self._step(getattr(os, name)))
            yield
        self._look()
        self._cut()

    def states(self) -> list[State]:
        """What cuts before and after each step may have left, each once."""
        for file in self._open.values():
            os.close(file)
        return list(self._states.values())

    def _step(self, step: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **options: object) -> object:
            self._look()
            self._cut()
            result = step(*args, **options)
            self._look()
            if step.__name__ in ("fsync", "fdatasync"):
                self._sync(args[0])
            return result

        return run

    def _sync(self, file: int) -> None:
        status = os.fstat(file)
        inode = (status.st_dev, status.st_ino)
        if inode in self._names:
            chosen = [any(folder == inode for folder, _, _ in op) for op in self._pending]
            chosen = _with_what_they_need(self._pending, chosen)
            _apply(compress(self._pending, chosen), self._safe_names)
            self._pending = list(compress(self._pending, [not safe for safe in chosen]))
        elif inode in self._open:
            self._safe_data[inode] = self._content(inode)

    def _look(self) -> None:
        """Find out which names have come and gone."""
        found: dict[Inode, dict[str, Inode]] = {}
        folders = [(self._top, self._root)]
        for folder, path in folders:
            found[folder] = {}
            for entry in os.scandir(path):
                inode = self._look_at(Path(entry.path))
                found[folder][entry.name] = inode
                if entry.is_dir(follow_symlinks=False):
                    folders.append((inode, Path(entry.path)))
        changes: dict[Inode, list[Change]] = {}
        for folder in found.keys() | self._names.keys():
            before, after = self._names.get(folder, {}), found.get(folder, {})
            for name in before.keys() | after.keys():
                old, new = before.get(name), after.get(name)
                if old != new:  # a move is one change, of two names
                    changes.setdefault(new or old, []).append((folder, name, new))
        self._pending += changes.values()
        self._names = found

    def _look_at(self, path: Path) -> Inode:
        status = path.lstat()
        inode = (status.st_dev, status.st_ino)
        if inode not in self._open:
            self._open[inode] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return inode

    def _files(self) -> set[Inode]:
        return self._open.keys() - self._names.keys()

    def _content(self, inode: Inode) -> bytes:
        file = self._open[inode]
        return os.pread(file, os.fstat(file).st_size, 0)

    def _cut(self) -> None:
        """Remember what is left if the power goes now."""
        nothing, all_ = [False] * len(self._pending), [True] * len(self._pending)
        self._keep(nothing, self._old)
        self._keep(all_, self._old)  # names without the content that they promise
        self._keep(all_, self._content)
        for _ in range(RANDOM_CUTS):
            chosen = [self._random.random() < 0.5 for _ in self._pending]
            self._keep(_with_what_they_need(self._pending, chosen), self._torn)

    def _keep(self, chosen: list[bool], content: Callable[[Inode], bytes]) -> None:
        names = {folder: dict(entries) for folder, entries in self._safe_names.items()}
        _apply(compress(self._pending, chosen), names)
        files: list[tuple[str, Inode, bytes | None]] = []
        folders = [(self._top, "")]
        data: dict[Inode, bytes] = {}
        for folder, place in folders:
            for name, inode in sorted(names.get(folder, {}).items()):
                is_folder = inode in self._names or inode in self._safe_names
                is_folder = is_folder or os.path.isdir(f"/proc/self/fd/{self._open[inode]}")
                if is_folder:
                    folders.append((inode, f"{place}{name}/"))
                elif inode not in data:
                    data[inode] = content(inode)
                files.append((f"{place}{name}", inode, None if is_folder else data[inode]))
        state = State(tuple(files), self.note)
        self._states.setdefault((state.files, repr(state.note)), state)

    def _old(self, inode: Inode) -> bytes:
        return self._safe_data.get(inode, b"")

    def _torn(self, inode: Inode) -> bytes:
        old, new = self._old(inode), self._content(inode)
        length = self._random.choice([len(old), len(new)])
        sectors = []
        for start in range(0, length, SECTOR):
            before, after = old[start : start + SECTOR], new[start : start + SECTOR]
            sector = after if before == after else self._random.choice([before, after])
            sectors.append(sector.ljust(min(SECTOR, length - start), b"\0")[: length - start])
        return b"".join(sectors)


def _with_what_they_need(pending: list[list[Change]], chosen: list[bool]) -> list[bool]:
    """Add the earlier changes of the same names and of the same files."""
    chosen = list(chosen)
    for late in reversed(range(len(pending))):
        if chosen[late]:
            names = {change[:2] for change in pending[late]}
            things = {change[2] for change in pending[late]} - {None}
            for early in range(late):
                for folder, name, thing in pending[early]:
                    chosen[early] |= (folder, name) in names or thing in things
    return chosen


def _apply(operations: Iterable[list[Change]], names: dict[Inode, dict[str, Inode]]) -> None:
    for operation in operations:
        for folder, name, inode in operation:
            entries = names.setdefault(folder, {})
            if inode is None:
                entries.pop(name, None)
            else:
                entries[name] = inode
