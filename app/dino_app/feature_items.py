"""Items of an index from features that dino-embed wrote: one file, or a folder of partitions."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dino_app.building import Incoming, known_metadata
from dino_app.image_items import described, picture_of
from dino_app.store.interface import Item, Store
from dino_infer.errors import DataError
from dino_infer.features import FeaturePaths, feature_paths, read_manifest, sha256_of
from dino_infer.listing import ImageList
from dino_infer.matrix_files import SUFFIXES, read_matrix
from dino_infer.row_table import OK, TableRow, table_rows

MODEL_ENTRIES = ("arch", "feature", "precision", "weights_sha256", "preprocess", "normalized")
ROWS_AT_ONCE = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """Vectors on disk that were all made alike."""

    parts: tuple[FeaturePaths, ...]
    model: Mapping[str, Any]
    """What made them: the entries of ``Embedder.description``."""
    dim: int
    rows: int

    def names(self) -> Iterator[str]:
        """The image of each row that has a feature."""
        for part in self.parts:
            yield from (row.path for row in table_rows(part.table) if row.status == OK)


def is_feature_source(source: str | Path) -> bool:
    """Whether a source holds features of dino-embed rather than images."""
    path = Path(source)
    if path.is_dir():
        return (path / "img_emb").is_dir() and (path / "manifests").is_dir()
    return path.suffix in SUFFIXES and (
        path.suffix != ".parquet" or path.with_suffix(".json").is_file()
    )


def feature_source(source: str | Path) -> FeatureSource:
    """Features to index.

    Raises:
        DataError: They are missing, damaged or unfinished, of several ways to make them, or hold
            more than one vector an image.
    """
    parts = _parts(Path(source))
    manifests = []
    for part in parts:
        matrix, manifest = _opened(part, verify=True)
        if matrix.ndim != 2:
            raise DataError(
                f"an index holds one vector an image, {str(part.matrix)!r} holds matrices of shape "
                f"{matrix.shape[1:]}; embed again with dino-embed --feature cls"
            )
        manifests.append(manifest)
    models = [{name: found.get(name) for name in MODEL_ENTRIES} for found in manifests]
    for part, model in zip(parts, models, strict=True):
        if model != models[0]:
            raise DataError(f"{str(part.matrix)!r} was made differently from the first partition")
    return FeatureSource(
        parts=parts,
        model=models[0],
        dim=int(manifests[0]["dim"]),
        rows=sum(int(found["rows"]) for found in manifests),
    )


def feature_items(
    source: FeatureSource,
    ids: list[str],
    *,
    known: Store | None = None,
    images: ImageList | None = None,
    thumbnails: int,
) -> Iterator[Incoming]:
    """Items of the rows that are new or have changed, part by part.

    Args:
        source: The vectors.
        ids: From ``item_ids(source.names())``.
        known: The store as it is.
        images: Where the pictures of thumbnails are; they are found by their names.
        thumbnails: Longest side in pixels; 0 for none.
    """
    pictures = _Pictures(images, thumbnails)
    remaining = iter(ids)
    for part in source.parts:
        matrix, _ = _opened(part)
        rows = (row for row in enumerate(table_rows(part.table)) if row[1].status == OK)
        while some := list(islice(rows, ROWS_AT_ONCE)):
            names = list(islice(remaining, len(some)))
            yield Incoming(len(some), list(_items(matrix, some, names, known, pictures)), [])
    pictures.report()


class _Pictures:
    """Thumbnails of rows, from images that lie elsewhere."""

    def __init__(self, images: ImageList | None, longest_side: int) -> None:
        self._longest_side = longest_side
        self._images = images if longest_side else None
        self._missing = 0
        count = 0 if self._images is None else len(self._images)
        self._places = {} if images is None else {images.name(i): i for i in range(count)}

    def wanted(self, id: str, known: Store | None) -> bool:
        """Whether there is no thumbnail yet and there should be one."""
        return self._images is not None and (known is None or known.thumbnail(id) is None)

    def of(self, name: str) -> bytes | None:
        """The thumbnail of an image by its name."""
        if self._images is None:
            return None
        if name not in self._places:
            self._missing += 1
            return None
        return picture_of(self._images, self._places[name], self._longest_side)

    def report(self) -> None:
        """Say how many pictures were not found."""
        if self._missing:
            logger.warning("%d rows have no image of their name under --images", self._missing)


def _items(
    matrix: np.ndarray,
    rows: list[tuple[int, TableRow]],
    ids: list[str],
    known: Store | None,
    pictures: _Pictures,
) -> Iterator[Item]:
    for (at, row), id, before in zip(rows, ids, known_metadata(known, ids), strict=True):
        metadata = described(id, row.file, row.label)
        if before != metadata or pictures.wanted(id, known):
            vector = np.array(matrix[at], dtype=np.float32)
            yield Item(id=id, vector=vector, metadata=metadata, thumbnail=pictures.of(row.path))


def _parts(path: Path) -> tuple[FeaturePaths, ...]:
    if not path.is_dir():
        return (feature_paths(path),)
    numbers = sorted(file.stem.removeprefix("manifest_") for file in path.glob("manifests/*.json"))
    if not numbers:
        raise DataError(f"no finished partition in {str(path)!r}; run dino-embed --resume")
    return tuple(
        FeaturePaths(
            path / "img_emb" / f"img_emb_{number}.npy",
            path / "metadata" / f"metadata_{number}.parquet",
            path / "manifests" / f"manifest_{number}.json",
            path / "failed" / f"failed_{number}.jsonl",
        )
        for number in numbers
    )


def _opened(part: FeaturePaths, *, verify: bool = False) -> tuple[np.ndarray, dict[str, Any]]:
    """Matrix and manifest of one set.

    Raises:
        DataError: A file is missing, damaged, or has changed since it was written.
    """
    name = str(part.matrix)
    for file in (*part.hashed, part.manifest):
        if not file.is_file():
            raise DataError(f"features {name!r} are incomplete: {str(file)!r} is missing")
    try:
        manifest = dict(read_manifest(part.manifest) or {})
        hashes, shape = manifest["files_sha256"], tuple(manifest["shape"])
        matrix = read_matrix(part.matrix)
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"features {name!r} are damaged: {reason}") from error
    for file in part.hashed if verify else ():
        if hashes.get(file.name) != sha256_of(file):
            raise DataError(f"{str(file)!r} has changed since it was written; embed again")
    if matrix.shape != shape:
        raise DataError(f"{name!r} is of shape {matrix.shape}, its manifest says {shape}")
    return matrix, manifest
