"""Labelled examples that vote on a photo: those of a features file or of an index."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from dino_app.demo.tiles import TILE, empty_tile, photo_tile, thumbnail_tile
from dino_app.store.filters import Exists
from dino_app.store.interface import Store
from dino_infer.errors import DataError, ImageError
from dino_infer.features.files import Features
from dino_infer.images.read import read_image
from dino_infer.knn.neighbors import exact_neighbors, normalized

SOUGHT = 100  # photos of a features file, of which one must be there for tiles to be shown
ENOUGH = (2 * TILE, 2 * TILE)  # pixels decoded of a photo that becomes a tile
LABEL = "label"  # of an index: the metadata that names the class


class Voter(NamedTuple):
    """A labelled example near a photo."""

    name: str
    label: str
    similarity: float
    """Cosine similarity."""


class FileExamples:
    """The rows of a features file, with their photos where these still lie where it says.

    Raises:
        DataError: The file has no labels, or not one vector an image.
    """

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
        sources = [Path(source) for source in features.manifest.get("sources") or ()]
        self._folders = [source for source in sources if source.is_dir()]
        self.has_tiles = any(self._file(name) is not None for name in self._names[:SOUGHT])

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
        """The photo of an example made small; the empty tile where it is not found."""
        path = self._file(name)
        return empty_tile() if path is None else _tile_of(path)

    def _file(self, name: str) -> Path | None:
        """The file of an example: names are unique only within a folder."""
        found = [folder / name for folder in self._folders if (folder / name).is_file()]
        return found[0] if len(found) == 1 else None


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


@functools.lru_cache(maxsize=64)  # of a few MB: each step of a slider shows the same again
def _tile_of(path: Path) -> Image.Image:
    try:
        return photo_tile(read_image(path.read_bytes(), path=path.name, min_scale_size=ENOUGH))
    except (ImageError, OSError):
        return empty_tile()


Examples = FileExamples | IndexExamples
