"""The rows of a matrix nearest to queries, exactly, without an index object.

FAISS computes in float32 with roundings that depend on the batch. So it only proposes: whatever
could belong to the best k is scored again in one way, and equal vectors get equal scores.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from jaxtyping import Float32, Int64

from dino_app.store.faiss_store.search import row_sets
from dino_app.store.faiss_store.search.row_sets import Bits
from dino_app.store.scores import ROUNDING

FEW_QUERIES = 16
MORE = 16  # rows beyond k that show where equal scores end

Vectors = Float32[np.ndarray, "_ dim"]
Queries = Float32[np.ndarray, "queries dim"]
Rows = Int64[np.ndarray, " _"]


@contextmanager
def threads_for(queries: int) -> Iterator[None]:
    """One OpenMP thread for few queries, as waiting for a second one costs more than it brings."""
    before = faiss.omp_get_max_threads()
    if queries < FEW_QUERIES:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def nearest(vectors: Vectors, queries: Queries, *, k: int, allowed: Bits | None) -> list[Rows]:
    """Rows that may be among the k best of each query, all that tie with the last included.

    Args:
        vectors: C order.
        queries: Unit rows.
        k: Rows wanted.
        allowed: The rows that count; None for all.
    """
    count = len(vectors) if allowed is None else row_sets.size(allowed)
    fetched = min(count, k + MORE)
    if not fetched:
        return [np.empty(0, np.int64)] * len(queries)
    scores, rows = knn(vectors, queries, k=fetched, allowed=allowed)
    return [
        with_ties(vectors, query, *found, k=k, allowed=allowed)
        for query, *found in zip(queries, scores, rows, strict=True)
    ]


def nearest_of(vectors: Vectors, queries: Queries, rows: Rows, *, k: int) -> list[Rows]:
    """Call ``nearest`` among some rows."""
    near = nearest(np.ascontiguousarray(vectors[rows]), queries, k=k, allowed=None)
    return [rows[found] for found in near]


def knn(
    vectors: Vectors, queries: Queries, *, k: int, allowed: Bits | None
) -> tuple[Float32[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """Scores and rows as FAISS finds them, best first; there must be k allowed rows."""
    scores = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int64)
    queries = np.ascontiguousarray(queries)
    with threads_for(len(queries)):
        faiss.knn_inner_product(
            faiss.swig_ptr(queries),
            faiss.swig_ptr(vectors),
            vectors.shape[1],
            len(queries),
            len(vectors),
            k,
            faiss.swig_ptr(scores),
            faiss.swig_ptr(rows),
            None if allowed is None else selector(allowed),
        )
    return scores, rows


def selector(allowed: Bits) -> faiss.IDSelectorBitmap:
    """The rows that a search may return; ``allowed`` must outlive it."""
    return faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(allowed))


def with_ties(
    vectors: Vectors,
    query: Float32[np.ndarray, " dim"],
    scores: Float32[np.ndarray, " fetched"],
    rows: Int64[np.ndarray, " fetched"],
    *,
    k: int,
    allowed: Bits | None,
) -> Rows:
    """The best ``k`` of rows that were fetched, best first, and all that tie with the last.

    The rows fetched must be all that count, or more than ``k`` of them.
    """
    if len(rows) <= k:
        return rows
    least = scores[k - 1] - ROUNDING
    if scores[-1] < least:
        best: Rows = rows[scores >= least]
        return best
    close: Rows = np.flatnonzero(vectors @ query >= least)
    if allowed is not None:
        close = close[row_sets.holds(allowed, close)]
    return close
