"""One version of a store: a base, the items since, and what is still alive of both."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from heapq import merge
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from dino_app.store.faiss_store.base import Base
from dino_app.store.faiss_store.delta import Chosen, Delta
from dino_app.store.faiss_store.disk.log import Operation, Upsert
from dino_app.store.faiss_store.search import row_sets
from dino_app.store.faiss_store.search.row_sets import Bits
from dino_app.store.filters import Filter
from dino_app.store.interface import Item

_ROWS_AT_ONCE = 500


class Entry(NamedTuple):
    """An item of a view with the place of its thumbnail."""

    id: str
    metadata: dict[str, Any]
    vector: Float32[np.ndarray, " dim"]
    picture: str | None

    def item(self, *, thumbnail: bytes | None = None) -> Item:
        """A copy that its owner may change."""
        return Item(
            id=self.id,
            vector=self.vector.copy(),
            metadata=dict(self.metadata),
            thumbnail=thumbnail,
        )


@dataclass(frozen=True)
class View:
    """Never changes; whoever holds it sees one version."""

    base: Base
    delta: Delta
    alive: Bits
    """Rows of the base that are neither deleted nor replaced."""
    delta_alive: Chosen
    """The same for the rows of the delta that belong to this version, and no others."""
    version: str

    @cached_property
    def base_rows(self) -> int:
        """Items in the base."""
        return row_sets.size(self.alive)

    @cached_property
    def rows(self) -> int:
        """Items."""
        return self.base_rows + int(self.delta_alive.sum())

    @property
    def deleted(self) -> int:
        """Rows that the next merge clears away."""
        return self.base.rows + len(self.delta_alive) - self.rows

    def after(self, operation: Operation, *, version: str) -> "View":
        """The next version; only from the newest view, and from one thread."""
        ids = list(operation.ids)
        delta_alive = self.delta_alive.copy()
        delta_alive[self.delta.latest_rows(ids)] = False
        alive = row_sets.without(self.alive, self.base.items.rows_of_ids(ids))
        if isinstance(operation, Upsert):
            self.delta.add(operation)
            delta_alive = np.concatenate([delta_alive, np.ones(len(ids), bool)])
        return View(self.base, self.delta, alive, delta_alive, version)

    def entries(self, ids: Collection[str]) -> dict[str, Entry]:
        """Items by id, of those that are there; only of the newest view."""
        found = {}
        for id in ids:
            row = self.delta.latest.get(id)
            if row is not None and row < len(self.delta_alive) and self.delta_alive[row]:
                found[id] = self._delta_entry(row)
        others = [id for id in ids if id not in found]
        for id, stored in self.base.items.of_ids(others).items():
            if row_sets.holds(self.alive, np.array([stored.row]))[0]:
                vector = self.base.vectors[stored.row]
                found[id] = Entry(id, stored.metadata, vector, stored.picture)
        return found

    def present(self, ids: Collection[str]) -> list[str]:
        """Return the ids that are there, each once, in order; only of the newest view."""
        found = self.entries(ids)
        return [id for id in dict.fromkeys(ids) if id in found]

    def after_id(self, id: str | None, condition: Filter | None = None) -> Iterator[Entry]:
        """Items that match, in the order of their ids, from the first one after ``id``."""
        in_base, in_delta = self.matching(condition)
        parts = [self._base_entries(id, in_base), self._delta_entries(id, in_delta)]
        return merge(*parts, key=lambda entry: entry.id.encode())

    def matching(self, condition: Filter | None) -> tuple[Bits, Chosen]:
        """Items of the base and of the delta that match."""
        if condition is None:
            return self.alive, self.delta_alive
        in_delta = self.delta.matching(condition, len(self.delta_alive))
        return self.alive & self.base.columns.matching(condition), self.delta_alive & in_delta

    def count(self, condition: Filter | None) -> int:
        """Items that match."""
        in_base, in_delta = self.matching(condition)
        return row_sets.size(in_base) + int(in_delta.sum())

    def _base_entries(self, id: str | None, chosen: Bits) -> Iterator[Entry]:
        rows = row_sets.rows_of(chosen, self.base.rows)
        if id is not None:
            rows = rows[rows > self.base.items.last_row_up_to(id)]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE].tolist()
            stored = self.base.items.of_rows(part)
            for row in part:
                vector, item = self.base.vectors[row], stored[row]
                yield Entry(item.id, item.metadata, vector, item.picture)

    def _delta_entries(self, id: str | None, chosen: Chosen) -> Iterator[Entry]:
        start = b"" if id is None else id.encode()
        for name, row in self._delta_order:
            if chosen[row] and name > start:
                yield self._delta_entry(row)

    @cached_property
    def _delta_order(self) -> list[tuple[bytes, int]]:
        rows = np.flatnonzero(self.delta_alive).tolist()
        return sorted((self.delta.ids[row].encode(), row) for row in rows)

    def _delta_entry(self, row: int) -> Entry:
        delta = self.delta
        vector = delta.vectors(row + 1)[row]
        return Entry(delta.ids[row], delta.metadata[row], vector, delta.pictures[row])


def view_of(base: Base, *, version: str) -> View:
    """A base without anything after it."""
    alive = row_sets.all_rows(base.rows)
    return View(base, Delta(base.dim), alive, np.empty(0, bool), version)
