"""Items since the base, in memory: rows are only ever added, so that older views stay valid."""

from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from dino_app.store.faiss_store.disk.log import Upsert
from dino_app.store.faiss_store.search.exact import Vectors
from dino_app.store.filters import Filter, matches

FILTERS_KEPT = 64
_FIRST_ROWS = 1024

Chosen = Bool[np.ndarray, " _"]


class Delta:
    """Rows in the order they came; one thread adds, any number read those that they know of.

    Attributes:
        ids: Id of each row.
        metadata: Metadata of each row.
        pictures: Place of each row's thumbnail.
        latest: The last row of each id, whether or not it was deleted since.
    """

    def __init__(self, dim: int) -> None:
        self._vectors = np.empty((_FIRST_ROWS, dim), np.float32)
        self._answers: OrderedDict[str, Chosen] = OrderedDict()
        self._lock = Lock()
        self.ids: list[str] = []
        self.metadata: list[dict[str, Any]] = []
        self.pictures: list[str | None] = []
        self.latest: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, added: Upsert) -> None:
        """Add rows at the end."""
        start = len(self)
        self._make_room(start + len(added.ids))
        self._vectors[start : start + len(added.ids)] = added.vectors
        self.metadata += added.metadata
        self.pictures += added.pictures
        self.latest.update(zip(added.ids, range(start, start + len(added.ids)), strict=True))
        self.ids += added.ids

    def vectors(self, count: int) -> Vectors:
        """Vectors of the first rows."""
        part: Vectors = self._vectors[:count]
        return part

    def latest_rows(self, ids: list[str]) -> Int64[np.ndarray, " found"]:
        """The last rows of those ids that ever were here."""
        rows = (self.latest.get(id) for id in ids)
        return np.array([row for row in rows if row is not None], np.int64)

    def matching(self, condition: Filter, count: int) -> Chosen:
        """Rows that match, of the first ones."""
        key = repr(condition)  # not the filter itself, as 1 == True
        with self._lock:
            known = self._answers.pop(key, np.empty(0, bool))
            if len(known) < count:
                more = [matches(condition, self.metadata[row]) for row in range(len(known), count)]
                known = np.concatenate([known, np.array(more, bool)])
            self._answers[key] = known
            if len(self._answers) > FILTERS_KEPT:
                self._answers.popitem(last=False)
        chosen: Chosen = known[:count]
        return chosen

    def _make_room(self, rows: int) -> None:
        if rows > len(self._vectors):
            larger = np.empty((max(rows, 2 * len(self._vectors)), self._vectors.shape[1]), "f4")
            larger[: len(self)] = self._vectors[: len(self)]
            self._vectors = larger
