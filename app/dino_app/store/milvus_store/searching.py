"""One search in Milvus: what it finds is scored again, so that equal vectors score alike."""

from collections.abc import Collection
from typing import Any

import numpy as np
from jaxtyping import Float32

from dino_app.store.interface import Hit, Included, SearchParams
from dino_app.store.milvus_store.connection import Connection
from dino_app.store.milvus_store.filters import metadata_of
from dino_app.store.scores import ROUNDING, exact_scores

MAX_LIMIT = 16_384  # of hits in one answer of Milvus
_SPARE_HITS = 16  # fetched beyond k, to see where equal scores end


class Searching:
    """Searches that try equally hard and return the same fields."""

    def __init__(
        self,
        connection: Connection,
        params: SearchParams | None,
        include: Collection[Included],
    ) -> None:
        self._connection = connection
        self._options = _options(params)
        self._include = include

    def hits(self, query: Float32[np.ndarray, " dim"], where: str, *, k: int) -> list[Hit]:
        """The k best hits of a unit vector, in any order, and all that nearly equal the last."""
        rows = self._rows(query, where, k=k)
        if not rows:
            return []
        vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
        return [
            Hit(
                row["id"],
                float(score),
                metadata_of(row) if "metadata" in self._include else None,
                vector.copy() if "vector" in self._include else None,
            )
            for row, vector, score in zip(rows, vectors, exact_scores(vectors, query), strict=True)
        ]

    def _rows(
        self, query: Float32[np.ndarray, " dim"], where: str, *, k: int
    ) -> list[dict[str, Any]]:
        limit = k + _SPARE_HITS
        while True:
            (found,) = self._answer(query, where, limit)
            full = len(found) == limit < MAX_LIMIT
            if not full or found[-1]["distance"] < found[k - 1]["distance"] - ROUNDING:
                return [{"id": hit["id"], **hit["entity"]} for hit in found]
            limit = min(4 * limit, MAX_LIMIT)

    def _answer(self, query: Float32[np.ndarray, " dim"], where: str, limit: int) -> Any:
        options = dict(self._options)
        if "ef" in options:  # a graph search cannot give more hits than it keeps
            options["ef"] = max(options["ef"], limit)
        return self._connection.call(
            "search",
            self._connection.place.collection,
            data=[query.tolist()],
            filter=where,
            limit=limit,
            output_fields=["*"] if "metadata" in self._include else ["vector"],
            search_params={"metric_type": "IP", "params": options},
        )


def rank(hit: Hit) -> tuple[float, bytes]:
    """Sort key of hits: best first, equal scores by id."""
    return -hit.score, hit.id.encode()


def _options(params: SearchParams | None) -> dict[str, int]:
    """Search options to pass to the index."""
    if params is None:
        return {}
    given = {"ef": params.ef, "nprobe": params.nprobe}
    return {name: value for name, value in given.items() if value is not None}
