"""Items of an index from features that dino-embed wrote: one file, or a folder of partitions."""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dino_app.indexing.building import Incoming, known_metadata
from dino_app.indexing.from_images import described, picture_of
from dino_app.store.interface import Item, Store
from dino_infer.errors import DataError, ImageError
from dino_infer.features.files import FeaturePaths, feature_paths, read_set
from dino_infer.features.matrix import SUFFIXES
from dino_infer.features.table import OK, TableRow, table_rows
from dino_infer.sources.image_list import ImageList

_MANIFEST = re.compile(r"manifest_(\d{4,})\.json")
MODEL_ENTRIES = ("arch", "feature", "precision", "weights_sha256", "preprocess", "normalized")
ROWS_AT_ONCE = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """Vectors on disk that were all made alike."""

    parts: tuple[FeaturePaths, ...]
    roots: tuple[tuple[str, ...], ...]
    """The folders, tars and tables that the images of each part are from, where it tells."""
    model: Mapping[str, Any]
    """Description of the model that made them: the entries of ``Embedder.description``."""
    dim: int
    rows: int

    def names(self) -> Iterator[str]:
        """The image of each row that has a feature."""
        for part in self.parts:
            yield from (row.path for row in table_rows(part.table) if row.status == OK)

    def location(self, number: int) -> str:
        """Path of the image of a row, counted over those with a feature, for messages."""
        rows = (
            os.path.join(_source_of(row, roots), row.path)
            for part, roots in zip(self.parts, self.roots, strict=True)
            for row in table_rows(part.table)
            if row.status == OK
        )
        return next(islice(rows, number, None))


def is_feature_source(source: str | Path) -> bool:
    """Tell if a source holds features of dino-embed rather than images."""
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
        opened = read_set(part, verify=True)
        matrix, manifest = opened.matrix, opened.manifest
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
    if Path(source).is_dir():
        _check_count(Path(source), manifests)
    return FeatureSource(
        parts=parts,
        roots=tuple(tuple(found.get("sources") or ()) for found in manifests),
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
        ids: Result of ``item_ids(source.names())``.
        known: The store as it is.
        images: Images to make thumbnails from; they are found by name, and several of one
            name by their content.
        thumbnails: Longest side in pixels; 0 for none.
    """
    pictures = _Pictures(images, thumbnails)
    remaining = iter(ids)
    for part in source.parts:
        matrix, manifest = (opened := read_set(part)).matrix, opened.manifest
        rows = (row for row in enumerate(table_rows(part.table)) if row[1].status == OK)
        while some := list(islice(rows, ROWS_AT_ONCE)):
            names = list(islice(remaining, len(some)))
            items = _items(matrix, some, names, manifest.get("sources"), known, pictures)
            yield Incoming(len(some), list(items), [])
    pictures.report()


class _Pictures:
    """Thumbnails of rows, from images that lie elsewhere."""

    def __init__(self, images: ImageList | None, longest_side: int) -> None:
        self._longest_side = longest_side
        self._images = images if longest_side else None
        self._missing = 0
        self._places: dict[str, list[int]] = {}
        if images is not None and longest_side:
            for place in range(len(images)):
                self._places.setdefault(images.name(place), []).append(place)

    def wanted(self, id: str, known: Store | None) -> bool:
        """Tell if there is no thumbnail yet and there should be one."""
        return self._images is not None and (known is None or known.thumbnail(id) is None)

    def of(self, row: TableRow) -> bytes | None:
        """The thumbnail of the image of a row."""
        if self._images is None:
            return None
        place = self._place(self._images, row)
        if place is None:
            self._missing += 1
            return None
        return picture_of(self._images, place, self._longest_side)

    def _place(self, images: ImageList, row: TableRow) -> int | None:
        named = self._places.get(row.path, [])
        if len(named) == 1:
            return named[0]
        for place in named:
            with suppress(ImageError):
                if hashlib.sha256(images.read(place)).hexdigest() == row.file.sha256:
                    return place
        return None

    def report(self) -> None:
        """Say how many pictures were not found."""
        if self._missing:
            logger.warning("%d rows have no image of their name under --images", self._missing)


def _items(
    matrix: np.ndarray,
    rows: list[tuple[int, TableRow]],
    ids: list[str],
    sources: Any,
    known: Store | None,
    pictures: _Pictures,
) -> Iterator[Item]:
    for (at, row), id, before in zip(rows, ids, known_metadata(known, ids), strict=True):
        metadata = described(id, row.file, row.label, _source_of(row, sources))
        if before != metadata or pictures.wanted(id, known):
            vector = np.array(matrix[at], dtype=np.float32)
            yield Item(id=id, vector=vector, metadata=metadata, thumbnail=pictures.of(row))


def _source_of(row: TableRow, sources: Any) -> str:
    """The source of a row among those of its manifest; no text where that does not tell."""
    try:
        return str(sources[row.source])
    except (LookupError, TypeError):
        return ""


def _parts(path: Path) -> tuple[FeaturePaths, ...]:
    if not path.is_dir():
        return (feature_paths(path),)
    named = (_MANIFEST.fullmatch(file.name) for file in path.glob("manifests/*.json"))
    numbers = sorted((found[1] for found in named if found), key=int)
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


def _check_count(folder: Path, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a folder of which a partition is missing or stands in the place of another.

    Raises:
        DataError: One does.
    """
    told = manifests[0].get("partition")
    count = str(told).rpartition("/")[2]
    for number, manifest in enumerate(manifests):
        if manifest.get("partition") != f"{number}/{count}":
            raise DataError(
                f"expected partition {number}/{count} of {str(folder)!r}, got "
                f"{manifest.get('partition')!r}; run dino-embed --resume"
            )
    if count != str(len(manifests)):
        raise DataError(
            f"{str(folder)!r} holds {len(manifests)} of {count} partitions; run dino-embed --resume"
        )
