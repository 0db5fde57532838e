"""Features on disk: a matrix, a table with the same rows, a manifest, and what failed.

``feats.npy``           one row an image; opens with ``mmap_mode="r"``; or ``.safetensors``
``feats.parquet``       which image each row is; as ``-o feats.parquet`` it holds the rows as well
``feats.json``          how the features were made, and a hash of each file; written last
``feats.failed.jsonl``  one line for each image that could not be read: path, kind, reason
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from dino_infer.errors import DataError
from dino_infer.listing import ImageList
from dino_infer.matrix_files import SUFFIXES, read_matrix
from dino_infer.row_table import printable_name, read_table

FORMAT_VERSION = 1
ROW_ORDER = "bytes of the relative POSIX path"


class FeaturePaths(NamedTuple):
    """The files that belong together."""

    matrix: Path
    table: Path
    manifest: Path
    failures: Path

    @property
    def hashed(self) -> tuple[Path, ...]:
        """The files whose hashes the manifest holds."""
        return (self.matrix,) if self.matrix == self.table else (self.matrix, self.table)

    @property
    def partial(self) -> Path:
        """The folder of an unfinished set."""
        return self.matrix.with_name(self.matrix.name + ".partial")


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features read from disk."""

    matrix: Shaped[np.ndarray, "rows ..."]
    """Mapped from the file, not held in memory, but for ``.parquet``."""
    paths: tuple[str, ...]
    """Path of each row, as its listing named it."""
    labels: Shaped[np.ndarray, " rows"] | None
    """Class name of each row, where images have one."""
    manifest: dict[str, Any]


def feature_paths(path: str | Path) -> FeaturePaths:
    """The files of a feature set by the name of its matrix.

    Raises:
        DataError: The name has another ending than ``.npy``, ``.safetensors`` or ``.parquet``.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise DataError(
            f"features go to a file that ends in {', '.join(SUFFIXES)}, or to a folder FOLDER/, "
            f"got {str(path)!r}"
        )
    return FeaturePaths(
        path,
        path.with_suffix(".parquet"),
        path.with_suffix(".json"),
        path.with_suffix(".failed.jsonl"),
    )


def partition_paths(folder: str | Path, number: int, *, count: int) -> FeaturePaths:
    """The files of one part of a partitioned set, laid out as autofaiss and embedding-reader read.

    Args:
        folder: Of the whole set.
        number: Of the part, from 0.
        count: Of parts.
    """
    digits = max(4, len(str(count - 1)))
    named = f"{number:0{digits}}"
    folder = Path(folder)
    return FeaturePaths(
        folder / "img_emb" / f"img_emb_{named}.npy",
        folder / "metadata" / f"metadata_{named}.parquet",
        folder / "manifests" / f"manifest_{named}.json",
        folder / "failed" / f"failed_{named}.jsonl",
    )


def check_folder(folder: Path) -> None:
    """Refuse a place that cannot be written to, before hours of work.

    Raises:
        DataError: The folder is missing or not writable.
    """
    if not folder.is_dir():
        raise DataError(f"cannot write features: folder {str(folder)!r} does not exist; make it")
    if not os.access(folder, os.W_OK):
        raise DataError(f"cannot write features: folder {str(folder)!r} is not writable")


def read_features(path: str | Path, *, verify: bool = False) -> Features:
    """Open a feature set.

    Args:
        path: Name of the matrix: ``.npy``, ``.safetensors`` or ``.parquet``.
        verify: Also compare the hashes in the manifest, which reads every byte.

    Raises:
        DataError: A file is missing, damaged, or belongs to another set.
    """
    paths = feature_paths(path)
    for file in (*paths.hashed, paths.manifest):
        if not file.is_file():
            raise DataError(
                f"features {str(path)!r} are incomplete: {file.name!r} is missing; write them again"
            )
    try:
        manifest = json.loads(paths.manifest.read_bytes())
        matrix = read_matrix(paths.matrix)
        names, labels = read_table(paths.table)
        expected = tuple(manifest["shape"])
        hashes = manifest["files_sha256"]
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"features {str(path)!r} are damaged: {reason}") from error
    if matrix.shape != expected or len(names) != expected[0]:
        raise DataError(
            f"features {str(path)!r} do not belong together: the manifest says {expected}, the "
            f"matrix is {matrix.shape}, the table has {len(names)} rows"
        )
    for file in paths.hashed if verify else ():
        if hashes.get(file.name) != sha256_of(file):
            raise DataError(f"{str(file)!r} has changed since it was written")
    return Features(matrix=matrix, manifest=manifest, paths=names, labels=labels)


def class_names(images: ImageList) -> Shaped[np.ndarray, " images"] | None:
    """Class name of each image, or None when the list has no classes."""
    labels = images.labels()
    if labels is None:
        return None
    numbers, names = labels
    classes: np.ndarray = np.array([printable_name(name) for name in names], dtype=object)[numbers]
    return classes


def read_manifest(path: Path) -> Mapping[str, Any] | None:
    """The manifest of a finished set, or None where there is none."""
    try:
        manifest: Mapping[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return manifest


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
