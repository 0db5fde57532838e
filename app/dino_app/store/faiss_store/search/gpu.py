"""Exact search on a GPU, where faiss-gpu is installed and one is there.

FAISS on a GPU is not safe to use from two threads, takes no selection of rows and returns 2,048
rows at most. So searches queue up, rows that do not count are asked for too and left out, and
whatever does not fit is left to the processor.
"""

import logging
from threading import Lock
from typing import Any

import faiss
import numpy as np

from dino_app.store.faiss_store.search import exact as scan, row_sets
from dino_app.store.faiss_store.search.exact import Queries, Rows, Vectors
from dino_app.store.faiss_store.search.row_sets import Bits

logger = logging.getLogger(__name__)

MAX_ROWS = 2048
_ROOM = 1.5  # for rows that do not count and happen to be near


class GpuSearch:
    """All vectors of a base on a GPU."""

    def __init__(self, index: Any) -> None:
        """Take over ``index``, which holds the vectors; no other code may search it."""
        self._index = index
        self._lock = Lock()

    def nearest(
        self, vectors: Vectors, queries: Queries, *, k: int, allowed: Bits | None
    ) -> list[Rows] | None:
        """Return the result of ``scan.nearest``, or None where the GPU cannot tell."""
        count = len(vectors) if allowed is None else row_sets.size(allowed)
        room = 1.0 if allowed is None else _ROOM * len(vectors) / max(1, count)
        fetched = min(len(vectors), int(np.ceil((k + scan.MORE) * room)))
        if not 0 < fetched <= MAX_ROWS:
            return None
        with self._lock:
            scores, rows = self._index.search(np.ascontiguousarray(queries), fetched)
        near = []
        for query, some, found in zip(queries, scores, rows, strict=True):
            if allowed is not None:
                kept = row_sets.holds(allowed, found)
                some, found = some[kept], found[kept]
            if len(found) <= min(k, count - 1) and fetched < len(vectors):
                return None
            near.append(scan.with_ties(vectors, query, some, found, k=k, allowed=allowed))
        return near


def gpu_search(vectors: Vectors) -> GpuSearch | None:
    """Vectors on the first GPU; None where there is none, or no room on it."""
    if not len(vectors) or not faiss.get_num_gpus():
        return None
    try:
        index: Any = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError as error:
        logger.warning("%d rows are searched without the GPU: %s", len(vectors), error)
        return None
    return GpuSearch(index)
