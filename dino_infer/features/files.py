"""Features on disk: a matrix, a table with the same rows, a manifest, and what failed.

``feats.npy``           one row an image; opens with ``mmap_mode="r"``; or ``.safetensors``
``feats.parquet``       which image each row is; as ``-o feats.parquet`` it holds the rows as well
``feats.json``          how the features were made, and a hash of each file; written last
``feats.failed.jsonl``  one line for each image that could not be read: path, kind, reason
"""

import hashlib
import json
import os
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from dino_infer.errors import DataError
from dino_infer.features.matrix import SUFFIXES, read_matrix
from dino_infer.features.table import printable_name, read_table
from dino_infer.images.read import ImageFailure
from dino_infer.sources.image_list import ImageList

FORMAT_VERSION = 1
ROW_ORDER = "bytes of the relative POSIX path"
# Errors that readers of NumPy, Parquet and JSON raise for files of odd content.
UNREADABLE = (
    *(OSError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError),
    *(MemoryError, RecursionError, SyntaxError, tokenize.TokenError),
)


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

    def __repr__(self) -> str:
        """Numbers of rows and classes, and what made them."""
        shape = " x ".join(map(str, self.matrix.shape[1:]))
        made = f"{self.manifest.get('feature')} of {self.manifest.get('arch')}"
        labels = "no labels" if self.labels is None else f"{len(set(self.labels))} classes"
        return f"Features({len(self.matrix)} rows of {shape}, {made}, {labels})"


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
        folder: Folder of the whole set.
        number: Number of the part, from 0.
        count: Number of parts.
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
        verify: Also compare the hash of the matrix, which reads every byte. That of the table is
            always compared.

    Raises:
        DataError: A file is missing, damaged, or belongs to another set.
    """
    return read_set(feature_paths(path), verify=verify)


def read_set(paths: FeaturePaths, *, verify: bool = False) -> Features:
    """Open a feature set by its files; see ``read_features``."""
    manifest = check_files(paths)
    for file in paths.hashed if verify else paths.hashed[-1:]:
        if manifest["files_sha256"][file.name] != sha256_of(file):
            raise _damaged(paths, f"{str(file)!r} has changed since it was written")
    try:
        matrix = read_matrix(paths.matrix)
        names, labels = read_table(paths.table)
    except UNREADABLE as error:
        raise _damaged(paths, error) from error
    expected = tuple(manifest["shape"])
    if matrix.shape != expected or len(names) != expected[0]:
        raise DataError(
            f"features {str(paths.matrix)!r} do not belong together: the manifest says {expected}, "
            f"the matrix is {matrix.shape}, the table has {len(names)} rows"
        )
    if matrix.dtype != np.dtype(manifest["dtype"]):
        told = manifest["dtype"]
        raise _damaged(paths, f"the manifest says {told}, the matrix is {matrix.dtype}")
    return Features(matrix=matrix, manifest=manifest, paths=names, labels=labels)


def check_files(paths: FeaturePaths) -> dict[str, Any]:
    """The manifest of a set whose files are there; reads none of the others.

    Raises:
        DataError: A file is missing, or the manifest is damaged or of other files.
    """
    for file in (*paths.hashed, paths.manifest):
        if not file.is_file():
            raise DataError(
                f"features {str(paths.matrix)!r} are incomplete: {file.name!r} is missing; "
                "write them again"
            )
    try:
        manifest = read_manifest(paths.manifest)
    except (OSError, ValueError) as error:
        raise _damaged(paths, error) from error
    named = sorted(manifest["files_sha256"])
    if named != sorted(file.name for file in paths.hashed):
        raise DataError(
            f"{str(paths.manifest)!r} is the manifest of {', '.join(named)}, not of "
            f"{paths.matrix.name!r}; embed again"
        )
    return manifest


def check_shape(paths: FeaturePaths) -> None:
    """Compare a set's matrix and table with its manifest by what their headers say.

    Raises:
        DataError: They do not fit, or a file is missing or damaged.
    """
    import pyarrow.parquet

    manifest = check_files(paths)
    try:
        rows = pyarrow.parquet.read_metadata(paths.table).num_rows
        shape = tuple(manifest["shape"])
        if paths.matrix != paths.table:
            shape = read_matrix(paths.matrix).shape
    except UNREADABLE as error:
        raise _damaged(paths, error) from error
    if shape != tuple(manifest["shape"]) or rows != manifest["rows"]:
        raise _damaged(paths, f"matrix {shape} and table of {rows} rows are of another set")


def class_names(images: ImageList) -> Shaped[np.ndarray, " images"] | None:
    """Class name of each image, or None when the list has no classes."""
    labels = images.labels()
    if labels is None:
        return None
    numbers, names = labels
    classes: np.ndarray = np.array([printable_name(name) for name in names], dtype=object)[numbers]
    return classes


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished set.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """
    try:
        manifest = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path.name!r} is nested too deeply") from None
    if not isinstance(manifest, dict):
        raise ValueError(f"{path.name!r} holds no manifest")
    shape, hashes = manifest.get("shape"), manifest.get("files_sha256")
    counts = [manifest.get(name) for name in ("rows", "dim", "images", "failed")]
    is_shape = isinstance(shape, list) and shape[:1] == counts[:1] and all(map(_is_count, shape))
    is_hashes = isinstance(hashes, dict) and all(isinstance(v, str) for v in hashes.values())
    wrong = {
        "shape": not is_shape,
        "rows, dim, images or failed": not all(map(_is_count, counts)),
        "files_sha256": not is_hashes,
        "dtype": manifest.get("dtype") not in ("float32", "float16"),
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise ValueError(f"{path.name!r} has no usable {name}")
    return manifest


def failures_in(path: Path) -> Iterator[ImageFailure]:
    """The images that a ``.failed.jsonl`` lists.

    Raises:
        DataError: It is missing or damaged.
    """
    try:
        with path.open("rb") as lines:
            for line in lines:
                fields = json.loads(line)
                if not all(isinstance(fields[name], str) for name in ("path", "kind", "reason")):
                    raise TypeError("a line of other content")
                yield ImageFailure(**fields)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"the list of failures {str(path)!r} is missing or damaged") from error


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _damaged(paths: FeaturePaths, reason: object) -> DataError:
    text = (str(reason).splitlines() or [type(reason).__name__])[0]
    return DataError(f"features {str(paths.matrix)!r} are damaged: {text}; embed again")
