"""Labelled examples that vote on a photo: those of a features file or of an index."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from dino_app.demo.tiles import empty_tile, thumbnail_tile
from dino_app.store.filters import Exists
from dino_app.store.interface import Store
from dino_infer.errors import DataError
from dino_infer.features.files import Features
from dino_infer.knn.neighbors import exact_neighbors, normalized

LABEL = "label"  # of an index: the metadata that names the class


class Voter(NamedTuple):
    """A labelled example near a photo."""

    name: str
    label: str
    similarity: float
    """Cosine similarity."""


class FileExamples:
    """The rows of a features file; it holds no pictures.

    Raises:
        DataError: The file has no labels, or not one vector an image.
    """

    has_tiles = False
    what = "features file"

    def __init__(self, features: Features) -> None:
        if features.labels is None or features.matrix.ndim != 2:
            raise DataError(
                f"classifying needs one vector and a label for each image, got features of shape "
                f"{features.matrix.shape} {'without' if features.labels is None else 'with'} "
                "labels; embed a folder that has a folder for each class"
            )
        # Rows of unreadable images are NaN where dino-embed was asked to keep their places.
        ok = np.isfinite(features.matrix).all(axis=1)
        ok &= np.array([label is not None for label in features.labels], dtype=np.bool_)
        if not ok.any():
            raise DataError("classifying needs labelled features, but no row has both")
        self._rows = normalized(features.matrix[ok])
        self._names = [features.paths[row] for row in np.flatnonzero(ok)]
        self._labels = [str(label) for label in features.labels[ok]]
        self.model: Mapping[str, Any] = features.manifest

    def summary(self) -> str:
        """Summary of the examples, in one line."""
        return f"{len(self._names):,} labelled photos of {len(set(self._labels)):,} classes"

    def nearest(self, vector: Float[np.ndarray, " dim"], *, k: int) -> list[Voter]:
        """The most similar examples, the best first; all where there are fewer."""
        most = min(k, len(self._names))
        found = exact_neighbors(self._rows, normalized(vector[None]), k=most)
        return [
            Voter(self._names[row], self._labels[row], float(similarity))
            for similarity, row in zip(found.similarities[0], found.rows[0], strict=True)
        ]

    def tile(self, name: str) -> Image.Image:
        """The empty tile: a features file holds no pictures."""
        return empty_tile()


class IndexExamples:
    """The photos of an index that have a label.

    Raises:
        DataError: None has.
    """

    has_tiles = True
    what = "index"

    def __init__(self, store: Store) -> None:
        self._store = store
        if not store.count(Exists(LABEL, True)):
            raise DataError(f"classifying needs photos with the metadata {LABEL!r}, got none")

    @property
    def model(self) -> Mapping[str, Any]:
        """Description of the model that made the vectors."""
        return self._store.info().model

    def summary(self) -> str:
        """Summary of the examples, in one line."""
        return f"{self._store.count(Exists(LABEL, True)):,} labelled photos of the index"

    def nearest(self, vector: Float[np.ndarray, " dim"], *, k: int) -> list[Voter]:
        """The most similar examples, the best first; all where there are fewer."""
        found = self._store.search(
            vector[None], k=k, filter=Exists(LABEL, True), include=["metadata"]
        )
        return [Voter(hit.id, str((hit.metadata or {})[LABEL]), hit.score) for hit in found.hits[0]]

    def tile(self, name: str) -> Image.Image:
        """The thumbnail of an example, where it has one."""
        return thumbnail_tile(self._store.thumbnail(name))


Examples = FileExamples | IndexExamples
