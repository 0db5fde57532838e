"""Photos that can be searched: an index, or the photos that a visitor uploaded."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from dino_app.demo.tiles import photo_tile, thumbnail_tile
from dino_app.store.filters import Filter, parsed_filter
from dino_app.store.interface import Scalar, Store
from dino_infer.embedding.embedder import Embedder
from dino_infer.knn.classifier import nearest

MOST_READ = 5000  # items whose metadata are read for the choices
MOST_VALUES = 100  # of a field to choose by


class Result(NamedTuple):
    """A photo that a search found."""

    id: str
    score: float
    """Cosine similarity."""
    tile: Image.Image


class IndexAlbum:
    """The photos of an index."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.choices = choices(store)

    def condition(self, wanted: Sequence[str]) -> Filter | None:
        """Filter for some of ``choices``: any of one field's values, in every field; else None.

        Raises:
            ValueError: It is none of them.
        """
        by_field: dict[str, list[Scalar]] = {}
        for choice in wanted:
            if choice not in self.choices:
                raise ValueError(f"expected one of {list(self.choices)}, got {choice!r}")
            field, value = self.choices[choice]
            by_field.setdefault(field, []).append(value)
        written = {field: {"$in": values} for field, values in by_field.items()}
        return parsed_filter(written) if written else None

    @property
    def model(self) -> Mapping[str, Any]:
        """Description of the model that made the vectors."""
        return self._store.info().model

    def summary(self) -> str:
        """Summary of the content, in one line."""
        info = self._store.info()
        recall = "" if info.recall_at_10 is None else f", recall@10 {info.recall_at_10:.3f}"
        return f"{info.rows:,} photos · {info.dim} numbers each · index {info.index}{recall}"

    def search(
        self, vector: Float[np.ndarray, " dim"], *, k: int, condition: Filter | None = None
    ) -> list[Result]:
        """The most similar photos that match the condition, the best first."""
        hits = self._store.search(vector[None], k=k, filter=condition).hits[0]
        return [
            Result(hit.id, hit.score, thumbnail_tile(self._store.thumbnail(hit.id))) for hit in hits
        ]

    def vector(self, id: str) -> Float32[np.ndarray, " dim"] | None:
        """The vector of a photo, or None if it is no longer there."""
        item = self._store.get([id])[0]
        return None if item is None else item.vector


class UploadedAlbum:
    """A few photos, each compared with the one that is asked with.

    Args:
        photos: At least one name and picture; only one picture is held at a time.
        embedder: Maker of the vectors.
    """

    def __init__(
        self,
        photos: Iterable[tuple[str, UInt8[np.ndarray, "_ _ 3"]]],
        embedder: Embedder,
    ) -> None:
        vectors: list[Float32[np.ndarray, " dim"]] = []
        self._names: list[str] = []
        self._tiles: list[Image.Image] = []
        for name, picture in photos:
            vectors.append(embedder([picture])[0])
            self._names.append(_distinct(name, self._names))
            self._tiles.append(photo_tile(picture))
        self._vectors = np.stack(vectors)
        self.model: Mapping[str, Any] = embedder.description()

    def summary(self) -> str:
        """Summary of the content, in one line."""
        return f"{len(self._names)} photos · {self._vectors.shape[1]} numbers each"

    def search(
        self, vector: Float[np.ndarray, " dim"], *, k: int, condition: Filter | None = None
    ) -> list[Result]:
        """The most similar photos, the best first; uploads have nothing to filter by."""
        found = nearest(self._vectors, vector[None], k=min(k, len(self._names)))
        return [
            Result(self._names[row], float(score), self._tiles[row])
            for score, row in zip(found.similarities[0], found.rows[0], strict=True)
        ]

    def vector(self, id: str) -> Float32[np.ndarray, " dim"] | None:
        """The vector of a photo, or None if there is no such photo."""
        return self._vectors[self._names.index(id)] if id in self._names else None


def choices(store: Store) -> dict[str, tuple[str, Scalar]]:
    """Fields and values to limit a search to, by what people read: "label: cat".

    Only fields of few different texts or truth values among the first items, as labels are.
    """
    values: dict[str, set[Scalar]] = {}
    for item in store.page(limit=MOST_READ):
        for field, value in item.metadata.items():
            values.setdefault(field, set()).add(value)
    return {
        f"{field}: {value}": (field, value)
        for field, found in sorted(values.items())
        if len(found) <= MOST_VALUES and all(isinstance(value, str | bool) for value in found)
        for value in sorted(found, key=str)
    }


Album = IndexAlbum | UploadedAlbum


def _distinct(name: str, taken: Sequence[str]) -> str:
    """The name, with a number where it is taken."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name} ({number})"
    return candidate
