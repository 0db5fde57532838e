"""Interface that every retrieval store implements, whatever keeps its vectors.

Vectors are scaled to length 1 when they come in, so the score of a hit is the cosine similarity:
1 is the same direction, higher is better. A store is safe to use from many threads.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32

from dino_app.store.filters import Filter

Scalar = str | int | float | bool
Metadata = Mapping[str, Scalar]
"""Flat: names to texts, numbers that are finite, and truth values."""

MAX_ID_BYTES = 1024
MAX_K = 1000

Included = Literal["metadata", "vector"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One vector with its name."""

    id: str
    """Any text of 1 to ``MAX_ID_BYTES`` bytes of UTF-8 without control characters."""
    vector: Float32[np.ndarray, " dim"]
    metadata: Metadata = field(default_factory=dict)
    thumbnail: bytes | None = None
    """A small WebP picture, or None."""


class Hit(NamedTuple):
    """One item that a search found."""

    id: str
    score: float
    """Cosine similarity."""
    metadata: Metadata | None
    """Metadata of the item; None unless it was asked for."""
    vector: Float32[np.ndarray, " dim"] | None
    """Vector of the item; None unless it was asked for."""


_Result = TypeVar("_Result", bound=Any)


def others(found: Sequence[_Result], own: str | None, *, k: int) -> list[_Result]:
    """The best ``k`` of ``k + 1`` results, without the item that was asked with."""
    return [one for one in found if one.id != own][:k]


@dataclass(frozen=True, kw_only=True)
class SearchParams:
    """Effort of one search; never changes the index itself."""

    exact: bool = False
    """Compare with every vector, even where an approximate index exists."""
    ef: int | None = None
    """Candidates that graph indexes keep on the way; more is slower and finds more."""
    nprobe: int | None = None
    """Lists that inverted-file indexes visit; more is slower and finds more."""


class Found(NamedTuple):
    """Results of a search, all of them in one version of the store."""

    hits: list[list[Hit]]
    """Hits of each query, best first; equal scores by id. Fewer than k where fewer match."""
    version: str
    exact: bool
    """True if every vector that may match was compared."""


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """Facts about a store."""

    backend: Literal["faiss", "milvus"]
    dim: int
    rows: int
    deleted: int
    """Rows that are marked as deleted and not yet cleared away."""
    version: str
    """Changes with every write."""
    index: str
    """Kind of index that searches the vectors, say ``Flat`` or ``HNSW32``."""
    wanted_index: str
    """Kind of index that it was made with, say ``auto``."""
    recall_at_10: float | None
    """Recall measured against exact search when the index was built; None where search is exact."""
    model: Mapping[str, Any]
    """Model that made the vectors, as ``Embedder.description`` gives it; empty where unknown."""


@runtime_checkable
class Store(Protocol):
    """Items by id, found by nearness."""

    def info(self) -> StoreInfo:
        """Return facts about the store."""

    def upsert(self, items: Sequence[Item]) -> str:
        """Add items, or replace those whose ids exist; all of them or, on an error, none.

        Returns:
            The version that holds them. They survive a power cut from now on.

        Raises:
            ValueError: An id, vector or value is not allowed; the message names the item.
            StoreError: The store cannot be written.
        """

    def delete(self, ids: Collection[str]) -> list[str]:
        """Remove items for good; returns the ids that were there, in the order given."""

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """Items by id, without their thumbnails; None where there is none."""

    def thumbnail(self, id: str) -> bytes | None:
        """The WebP picture of an item, or None."""

    def search(
        self,
        vectors: Float[np.ndarray, "queries dim"],
        *,
        k: int,
        filter: Filter | None = None,
        params: SearchParams | None = None,
        include: Collection[Included] = (),
    ) -> Found:
        """The nearest items of each query among those that match the filter.

        Args:
            vectors: Any scale but zero.
            k: Hits wanted, 1 to ``MAX_K``.
            filter: Result of ``parsed_filter``.
            params: Effort of the search.
            include: Fields that each hit carries beside id and score.

        Raises:
            ValueError: ``k`` out of range, or vectors of another width, zero or not finite.
        """

    def count(self, filter: Filter | None = None) -> int:
        """Items that match."""

    def page(
        self, *, after: str | None = None, limit: int = 100, filter: Filter | None = None
    ) -> list[Item]:
        """Items in the order of their ids' UTF-8 bytes, from the first one after ``after``."""

    def items(self, *, batch: int = 1000) -> Iterator[list[Item]]:
        """All items of one version with thumbnails, in any order, for copies."""

    def snapshot(self, name: str) -> None:
        """Keep the present state under a name: 1 to 64 letters, digits, ``-``, ``_`` and ``.``.

        Raises:
            ValueError: The name is not allowed or taken.
        """

    def snapshots(self) -> list[str]:
        """Names that ``restore`` takes, sorted."""

    def restore(self, name: str) -> None:
        """Go back to a named state; it stays available.

        Raises:
            StoreError: No such snapshot, or it is damaged; nothing has changed then.
        """

    def close(self) -> None:
        """Finish background work and free files; a second call does nothing."""
