"""Manifest of a base: its content, with the hash of every file in it."""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dino_app.errors import StoreError
from dino_infer.cores import cores
from dino_infer.files import write_json

NAME = "manifest.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class IndexNote:
    """Index of a base, and its search settings."""

    kind: str
    """``Flat``, or what ``faiss.index_factory`` took."""
    recall_at_10: float | None = None
    candidates: int = 0
    """Rows that an approximate index proposes for exact scoring."""
    effort: int = 0
    """``nprobe`` or ``efSearch``, 0 where there is none."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Manifest of one base."""

    dim: int
    rows: int
    index: IndexNote
    wanted_index: str
    """Kind asked for when the store was made: "auto", "flat" or a factory string."""
    model: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    """SHA-256 and size by name."""
    metric: str = "inner product of unit vectors"
    format_version: int = field(default=FORMAT_VERSION)


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """Write it, and return its own SHA-256."""
    write_json(folder / NAME, asdict(manifest))
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def read_manifest(folder: Path, *, sha256: str) -> Manifest:
    """A manifest that is the one that was written.

    Raises:
        StoreError: It is missing, damaged, another one, or of a newer version.
    """
    try:
        data = (folder / NAME).read_bytes()
    except OSError as error:
        raise StoreError(f"{folder.name}/{NAME} cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise StoreError(f"{folder.name}/{NAME} is damaged or of another state")
    try:
        fields = json.loads(data)
        if fields["format_version"] != FORMAT_VERSION:
            raise StoreError(
                f"{folder.name} has format version {fields['format_version']}, "
                f"this program reads {FORMAT_VERSION}"
            )
        manifest = Manifest(**{**fields, "index": IndexNote(**fields["index"])})
        _check_types(manifest)
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{folder.name}/{NAME} is not what an index writes: {error}") from error
    return manifest


def _check_types(manifest: Manifest) -> None:
    index = manifest.index
    numbers = (manifest.dim, manifest.rows, index.candidates, index.effort)
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers):
        raise ValueError("its numbers must be whole numbers from 0")
    if not (isinstance(manifest.model, dict) and isinstance(manifest.files, dict)):
        raise ValueError("model and files must be objects")
    if not (isinstance(index.kind, str) and isinstance(manifest.wanted_index, str)):
        raise ValueError("kinds of index must be texts")


def file_notes(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of files, hashed at the same time."""
    with ThreadPoolExecutor(cores()) as pool:
        return dict(zip(names, pool.map(lambda name: _note(folder / name), names), strict=True))


def damaged_files(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Damage to files of a base, by name; empty where all are as they were written."""
    present = [name for name in manifest.files if (folder / name).is_file()]
    found = file_notes(folder, present)
    return {
        name: "is missing" if name not in found else "is damaged"
        for name, note in manifest.files.items()
        if found.get(name) != note
    }


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _note(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"sha256": digest, "bytes": os.fstat(file.fileno()).st_size}
