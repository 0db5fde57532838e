"""The plainest store there can be: a dictionary and numpy, against which the others are held."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from dino_app.errors import StoreError
from dino_app.store.filters import Filter, matches
from dino_app.store.interface import Found, Hit, Included, Item, SearchParams, StoreInfo


class NumpyStore:
    """Fulfils ``Store`` in memory; checks nothing that it is given."""

    def __init__(self, *, dim: int, model: Mapping[str, Any] | None = None) -> None:
        self._dim = dim
        self._model = model or {}
        self._items: dict[str, Item] = {}
        self._kept: dict[str, dict[str, Item]] = {}
        self._version = 0

    def info(self) -> StoreInfo:
        return StoreInfo(
            backend="faiss",
            dim=self._dim,
            rows=len(self._items),
            deleted=0,
            version=str(self._version),
            index="Flat",
            wanted_index="auto",
            recall_at_10=None,
            model=self._model,
        )

    def upsert(self, items: Sequence[Item]) -> str:
        for item in items:
            row = np.asarray(item.vector, np.float64)
            unit = (row / np.linalg.norm(row)).astype(np.float32)
            self._items[item.id] = deepcopy(replace(item, vector=unit))
        self._version += bool(items)
        return str(self._version)

    def delete(self, ids: Collection[str]) -> list[str]:
        there = [id for id in dict.fromkeys(ids) if self._items.pop(id, None) is not None]
        self._version += bool(there)
        return there

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        return [self._without_thumbnail(self._items[id]) if id in self else None for id in ids]

    def __contains__(self, id: str) -> bool:
        return id in self._items

    def thumbnail(self, id: str) -> bytes | None:
        return self._items[id].thumbnail if id in self else None

    def search(
        self,
        vectors: np.ndarray,
        *,
        k: int,
        filter: Filter | None = None,
        params: SearchParams | None = None,
        include: Collection[Included] = (),
    ) -> Found:
        items = self._matching(filter)
        hits = []
        for query in np.asarray(vectors, np.float64):
            scored = [(-score(query, item.vector), item.id.encode(), item) for item in items]
            best = sorted(scored, key=lambda found: found[:2])[:k]
            hits.append([_hit(item, -loss, include) for loss, _, item in best])
        return Found(hits, str(self._version), True)

    def count(self, filter: Filter | None = None) -> int:
        return len(self._matching(filter))

    def page(
        self, *, after: str | None = None, limit: int = 100, filter: Filter | None = None
    ) -> list[Item]:
        start = b"" if after is None else after.encode()
        items = [item for item in self._matching(filter) if item.id.encode() > start]
        items.sort(key=lambda item: item.id.encode())
        return [self._without_thumbnail(item) for item in items[:limit]]

    def items(self, *, batch: int = 1000) -> Iterator[list[Item]]:
        items = list(self._items.values())
        for start in range(0, len(items), batch):
            yield items[start : start + batch]

    def snapshot(self, name: str) -> None:
        if name in self._kept:
            raise ValueError(f"there is a snapshot {name!r} already")
        self._kept[name] = dict(self._items)

    def snapshots(self) -> list[str]:
        return sorted(self._kept)

    def restore(self, name: str) -> None:
        if name not in self._kept:
            raise StoreError(f"no snapshot {name!r}")
        self._items = dict(self._kept[name])
        self._version += 1

    def close(self) -> None:
        pass

    def _matching(self, condition: Filter | None) -> list[Item]:
        items = self._items.values()
        return [item for item in items if condition is None or matches(condition, item.metadata)]

    def _without_thumbnail(self, item: Item) -> Item:
        return replace(deepcopy(item), thumbnail=None)


def score(query: np.ndarray, vector: np.ndarray) -> float:
    """The cosine similarity, as a store reports it."""
    query = np.asarray(query, np.float64)
    unit = (query / np.linalg.norm(query)).astype(np.float32)
    return float(np.float32(np.dot(unit.astype(np.float64), vector.astype(np.float64))))


def _hit(item: Item, found: float, include: Collection[Included]) -> Hit:
    metadata = dict(item.metadata) if "metadata" in include else None
    return Hit(item.id, found, metadata, item.vector.copy() if "vector" in include else None)
