"""The large part of a store, which never changes: vectors, items, and how to search them.

base-000042/
    manifest.json    hash and size of each other file, width, model, kind of index
    vectors.npy      float32 unit rows in the order of their ids: the source of truth
    items.sqlite     ids, metadata, places of thumbnails
    index.faiss      only when searched approximately; made again from the vectors if damaged
"""

import fcntl
import logging
import os
import re
import shutil
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np

from dino_app.errors import StoreError
from dino_app.store.faiss_store.disk import item_table, manifest
from dino_app.store.faiss_store.disk.item_table import ItemTable
from dino_app.store.faiss_store.disk.manifest import (
    IndexNote,
    Manifest,
    damaged_files,
    file_notes,
    read_manifest,
    sync,
    write_manifest,
)
from dino_app.store.faiss_store.search import approximate
from dino_app.store.faiss_store.search.approximate import Proposer
from dino_app.store.faiss_store.search.columns import Columns
from dino_app.store.faiss_store.search.exact import Vectors
from dino_app.store.faiss_store.search.gpu import gpu_search
from dino_infer.files import remove_leftovers

logger = logging.getLogger(__name__)

PREFIX = "base-"
UNFINISHED = ".tmp"
_NAME = re.compile(PREFIX + r"\d{6,}(" + re.escape(UNFINISHED) + ")?")
VECTORS = "vectors.npy"
_ROWS_AT_ONCE = 16_384


def base_path(folder: Path, number: int) -> Path:
    """Path of a base."""
    return folder / f"{PREFIX}{number:06d}"


def base_folders(folder: Path) -> list[Path]:
    """The bases in a folder, and what killed processes left of unfinished ones."""
    named = (path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    return [path for path in named if path.is_dir() and not path.is_symlink()]


class Base:
    """One base, open for reading from any thread; its folder stays while this object lives."""

    def __init__(self, folder: Path, *, manifest_sha256: str) -> None:
        """Opens it after checking every file.

        Raises:
            StoreError: Something but the index is damaged.
        """
        self.folder = folder
        self._hold()
        self.manifest_sha256 = manifest_sha256
        self.manifest = read_manifest(folder, sha256=manifest_sha256)
        damaged = damaged_files(folder, self.manifest)
        rebuild = damaged.pop(approximate.NAME, None)
        for name, what in damaged.items():
            raise StoreError(f"{folder.name}/{name} {what}")
        self.rows, self.dim = self.manifest.rows, self.manifest.dim
        self.vectors = _mapped(folder / VECTORS, self.rows, self.dim)
        self.items = ItemTable(folder / item_table.NAME)
        weakref.finalize(self, self.items.close)
        self.columns = Columns(self.items, self.rows)
        self.index_was_damaged = rebuild is not None
        self.proposer = self._proposer(rebuild)
        self.gpu = gpu_search(self.vectors) if self.proposer is None else None

    def _hold(self) -> None:
        """Keep other processes from removing the folder."""
        try:
            file = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"{self.folder.name} cannot be opened: {error}") from error
        weakref.finalize(self, os.close, file)
        fcntl.flock(file, fcntl.LOCK_SH)

    def _proposer(self, damage: str | None) -> Proposer | None:
        note = self.manifest.index
        if note.kind == approximate.FLAT:
            return None
        if damage is None:
            path = self.folder / approximate.NAME
            return approximate.read(path, note, rows=self.rows, dim=self.dim)
        logger.warning(
            "%s/%s %s: making it again from the vectors", self.folder.name, approximate.NAME, damage
        )
        return approximate.built(self.vectors, kind=note.kind)


class BaseWriter:
    """Writes a base beside its place, and moves it there when it is whole and on the disk."""

    def __init__(self, folder: Path, *, number: int) -> None:
        self.target = base_path(folder, number)
        self.folder = self.target.with_suffix(UNFINISHED)
        self.folder.mkdir()

    def write_vectors(self, parts: "VectorParts") -> Vectors:
        """Write the vectors and return them, mapped from the file."""
        path = self.folder / VECTORS
        header = {"descr": "<f4", "fortran_order": False, "shape": (parts.rows, parts.dim)}
        with path.open("wb") as file:  # a full disk is an error here, but a signal when mapped
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, parts.rows, _ROWS_AT_ONCE):
                file.write(parts.rows_from(start, start + _ROWS_AT_ONCE).data)
        return _mapped(path, parts.rows, parts.dim)

    def finish(self, vectors: Vectors, *, like: Manifest, proposer: Proposer | None) -> str:
        """Write index and manifest, sync all, move the folder to its place.

        Returns:
            SHA-256 of the manifest.
        """
        names = [VECTORS, item_table.NAME]
        if proposer is not None:
            proposer.write(self.folder / approximate.NAME)
            names.append(approximate.NAME)
        written = Manifest(
            dim=like.dim,
            rows=len(vectors),
            index=IndexNote(kind=approximate.FLAT) if proposer is None else proposer.note,
            wanted_index=like.wanted_index,
            model=like.model,
            files=file_notes(self.folder, names),
        )
        for name in names:
            sync(self.folder / name)
        digest = write_manifest(self.folder, written)
        self.folder.replace(self.target)
        sync(self.target.parent)
        return digest


class VectorParts:
    """The vectors of the next base: rows of the old one and new ones, in their new order."""

    def __init__(self, old: Vectors | None, new: Vectors, source: np.ndarray) -> None:
        """``source`` is a row of the old base, or -1 - row of the new vectors."""
        self._old, self._new, self._source = old, new, source
        self.rows, self.dim = len(source), new.shape[1]

    def rows_from(self, start: int, stop: int) -> Vectors:
        """Return some of the rows."""
        source = self._source[start:stop]
        part = np.empty((len(source), self.dim), np.float32)
        fresh = source < 0
        part[fresh] = self._new[-1 - source[fresh]]
        if self._old is not None:
            part[~fresh] = self._old[source[~fresh]]
        return part


def remove_unless_held(folder: Path) -> bool:
    """Remove a base that no process reads; return True if it did.

    A file in it that is not ours stays, and its folder with it.
    """
    file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_leftovers(folder / manifest.NAME)
        for name in (manifest.NAME, VECTORS, item_table.NAME, approximate.NAME):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # it holds a stranger's file
            folder.rmdir()
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def link_base(base: Path, target: Path) -> None:
    """Give a base another name, without copying where the system has hard links."""
    target.mkdir()
    for name in (manifest.NAME, VECTORS, item_table.NAME, approximate.NAME):
        if (base / name).is_file():
            link_or_copy(base / name, target / name)
    sync(target)


def link_or_copy(path: Path, target: Path) -> None:
    """Give a file another name."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
        sync(target)


def _mapped(path: Path, rows: int, dim: int) -> Vectors:
    if rows == 0:  # an empty file cannot be mapped
        return np.empty((0, dim), np.float32)
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise StoreError(f"{path.name} holds no vectors: {error}") from error
    if vectors.shape != (rows, dim) or vectors.dtype != np.float32:
        raise StoreError(f"{path.name} holds {vectors.dtype} {vectors.shape}")
    mapped: Vectors = vectors.view(np.ndarray)
    return mapped
