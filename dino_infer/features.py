"""Features on disk: a matrix, a table with the same rows, a manifest, and what failed.

``feats.npy``           float32, C order, one row an image; opens with ``mmap_mode="r"``
``feats.parquet``       row, path, width, height, sha256, status, and label where images have one
``feats.json``          how the features were made, and a hash of each file; written last
``feats.failed.jsonl``  one line for each image without a row: path, kind, reason
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from dino_infer.embed import Embedding
from dino_infer.errors import DataError
from dino_infer.files import whole_file, write_json
from dino_infer.images import write_failures
from dino_infer.listing import ImageList

FORMAT_VERSION = 1
ROW_ORDER = "bytes of the relative POSIX path"


class FeaturePaths(NamedTuple):
    """The files that belong together."""

    matrix: Path
    table: Path
    manifest: Path
    failures: Path


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features read from disk."""

    matrix: Float[np.ndarray, "rows dim"]
    """Mapped from the file, not held in memory."""
    paths: tuple[str, ...]
    """Path of each row, as its listing named it."""
    labels: Shaped[np.ndarray, " rows"] | None
    """Class name of each row, where images have one."""
    manifest: dict[str, Any]


def feature_paths(path: str | Path) -> FeaturePaths:
    """The files of a feature set by the name of its matrix.

    Raises:
        DataError: The name does not end in ``.npy``.
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise DataError(f"features go to a file that ends in .npy, got {str(path)!r}")
    return FeaturePaths(
        path,
        path.with_suffix(".parquet"),
        path.with_suffix(".json"),
        path.with_suffix(".failed.jsonl"),
    )


def check_writable(path: str | Path, *, overwrite: bool) -> FeaturePaths:
    """The files to write, checked before hours of work.

    Raises:
        DataError: The folder is missing or not writable, or a file is there and must stay.
    """
    paths = feature_paths(path)
    folder = paths.matrix.parent
    if not folder.is_dir():
        raise DataError(f"cannot write {str(path)!r}: folder {str(folder)!r} does not exist")
    if not os.access(folder, os.W_OK):
        raise DataError(f"cannot write {str(path)!r}: folder {str(folder)!r} is not writable")
    found = [str(file) for file in paths[:3] if file.exists()]
    if found and not overwrite:
        raise DataError(f"{found[0]!r} exists; pass --overwrite to replace it, or another -o")
    return paths


def write_features(
    path: str | Path,
    embedding: Embedding,
    images: ImageList,
    *,
    description: Mapping[str, Any],
) -> None:
    """Write a feature set, replacing an older one.

    The manifest goes first and comes last, so files of two sets can never pass for one.

    Args:
        path: Name of the matrix, ending in ``.npy``.
        embedding: The rows and failures of ``images``.
        images: The list that was embedded.
        description: How the features were made, see ``Embedder.description``.

    Raises:
        DataError: They cannot be written.
    """
    paths = feature_paths(path)
    try:
        paths.manifest.unlink(missing_ok=True)
        with whole_file(paths.matrix) as temporary, temporary.open("wb") as file:
            np.save(file, embedding.features)
        _write_table(paths.table, embedding, images)
        write_failures(paths.failures, embedding.failures)
        rows, dim = embedding.features.shape
        manifest = {
            "format_version": FORMAT_VERSION,
            "rows": rows,
            "dim": dim,
            "dtype": str(embedding.features.dtype),
            "normalized": False,
            "row_order": ROW_ORDER,
            "images": len(images),
            "images_fingerprint": images.fingerprint(),
            "failed": len(embedding.failures),
            **description,
            "files_sha256": {file.name: _sha256(file) for file in (paths.matrix, paths.table)},
        }
        write_json(paths.manifest, manifest)
    except OSError as error:
        raise DataError(f"cannot write features to {str(path)!r}: {error.strerror}") from error


def read_features(path: str | Path, *, verify: bool = False) -> Features:
    """Open a feature set.

    Args:
        path: Name of the matrix, ending in ``.npy``.
        verify: Also compare the hashes in the manifest, which reads every byte.

    Raises:
        DataError: A file is missing, damaged, or belongs to another set.
    """
    paths = feature_paths(path)
    for file in (paths.matrix, paths.table, paths.manifest):
        if not file.is_file():
            raise DataError(
                f"features {str(path)!r} are incomplete: {file.name!r} is missing; write them again"
            )
    try:
        manifest = json.loads(paths.manifest.read_bytes())
        matrix = np.load(paths.matrix, mmap_mode="r", allow_pickle=False)
        table = _read_table(paths.table)
        expected = (manifest["rows"], manifest["dim"])
        hashes = manifest["files_sha256"]
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"features {str(path)!r} are damaged: {reason}") from error
    if matrix.shape != expected or len(table["paths"]) != expected[0]:
        raise DataError(
            f"features {str(path)!r} do not belong together: the manifest says {expected}, the "
            f"matrix is {matrix.shape}, the table has {len(table['paths'])} rows"
        )
    for file in (paths.matrix, paths.table) if verify else ():
        if hashes.get(file.name) != _sha256(file):
            raise DataError(f"{str(file)!r} has changed since it was written")
    return Features(matrix=matrix, manifest=manifest, **table)


def class_names(images: ImageList) -> Shaped[np.ndarray, " images"] | None:
    """Class name of each image, or None when the list has no classes."""
    labels = images.labels()
    if labels is None:
        return None
    numbers, names = labels
    classes: np.ndarray = np.array([_printable(name) for name in names], dtype=object)[numbers]
    return classes


def _write_table(path: Path, embedding: Embedding, images: ImageList) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    names = [images.name(int(index)) for index in np.flatnonzero(embedding.ok)]
    columns: dict[str, Any] = {
        "row": pa.array(range(len(names)), pa.int64()),
        "path": pa.array([_printable(name) for name in names], pa.string()),
        "width": pa.array(embedding.sizes[:, 1], pa.int32()),
        "height": pa.array(embedding.sizes[:, 0], pa.int32()),
        "sha256": pa.array(embedding.sha256, pa.string()),
        "status": pa.array(["ok"] * len(names), pa.string()),
    }
    if any(_printable(name) != name for name in names):
        columns["path_bytes"] = pa.array([os.fsencode(name) for name in names], pa.binary())
    labels = class_names(images)
    if labels is not None:
        columns["label"] = pa.array(labels[embedding.ok], pa.string())
    with whole_file(path) as temporary:
        pyarrow.parquet.write_table(pa.table(columns), temporary)


def _read_table(path: Path) -> dict[str, Any]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path, partitioning=None)
    if "path_bytes" in table.column_names:
        paths = tuple(os.fsdecode(name) for name in table["path_bytes"].to_pylist())
    else:
        paths = tuple(table["path"].to_pylist())
    labels = None
    if "label" in table.column_names:
        labels = np.array(table["label"].to_pylist(), dtype=object)
    return {"paths": paths, "labels": labels}


def _printable(name: str) -> str:
    r"""The name with bytes that are no UTF-8 written as ``\xff``; Parquet strings must be UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
