"""Searches of one view: base and delta, filtered first, scored exactly, merged.

Among few matching rows every one is compared; among many the index proposes some, or every row is
compared where there is no index. Nothing is filtered after the fact, so k hits come whenever k
items match.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from dino_app.store.faiss_store.base import Base
from dino_app.store.faiss_store.disk.item_table import StoredItem
from dino_app.store.faiss_store.search import exact as scan, row_sets
from dino_app.store.faiss_store.search.exact import Queries, Rows
from dino_app.store.faiss_store.search.row_sets import Bits
from dino_app.store.faiss_store.view import View
from dino_app.store.filters import Filter
from dino_app.store.interface import Found, Hit, Included, SearchParams
from dino_app.store.scores import exact_scores

FEW_ROWS = 20_000
"""Number of rows copied out and compared in the time of one scan with exclusions, about 10 ms."""
FEW_SHARE = 0.25
MASKED_SHARE = 0.5


class _Best(NamedTuple):
    """The nearest rows of a part of the view for one query, best first."""

    scores: Float32[np.ndarray, " rows"]
    rows: Rows


def search(
    view: View,
    queries: Queries,
    *,
    k: int,
    condition: Filter | None,
    params: SearchParams,
    include: Collection[Included],
) -> Found:
    """The ``k`` best hits of each query among the items that match."""
    in_base, in_delta = view.matching(condition)
    base_rows, exact = _base_rows(view.base, queries, k=k, allowed=in_base, params=params)
    delta_vectors = view.delta.vectors(len(in_delta))
    every = None if in_delta.all() else row_sets.packed(in_delta)
    delta_rows = scan.nearest(delta_vectors, queries, k=k, allowed=every)
    of_base = [
        _best(view.base.vectors[rows], query, rows, k=k)
        for query, rows in zip(queries, base_rows, strict=True)
    ]
    of_delta = [
        _best(delta_vectors[rows], query, rows)
        for query, rows in zip(queries, delta_rows, strict=True)
    ]
    hits = _merged(view, of_base, of_delta, k=k, include=include)
    return Found(hits, view.version, exact)


def _base_rows(
    base: Base, queries: Queries, *, k: int, allowed: Bits, params: SearchParams
) -> tuple[list[Rows], bool]:
    """Rows among which the best ``k`` of each query are, and whether that is certain."""
    count = row_sets.size(allowed)
    few = count <= min(FEW_ROWS, FEW_SHARE * base.rows)
    approximate = not (base.proposer is None or params.exact or few or count <= k)
    if approximate:
        proposed = _proposed(base, queries, k=k, allowed=allowed, count=count, params=params)
        if proposed is not None:
            return proposed, False
    if few:
        chosen = row_sets.rows_of(allowed, base.rows)
        return scan.nearest_of(base.vectors, queries, chosen, k=k), True
    every = None if count == base.rows else allowed
    if base.gpu is not None:
        found = base.gpu.nearest(base.vectors, queries, k=k, allowed=every)
        if found is not None:
            return found, True
    return scan.nearest(base.vectors, queries, k=k, allowed=every), True


def _proposed(
    base: Base, queries: Queries, *, k: int, allowed: Bits, count: int, params: SearchParams
) -> list[Rows] | None:
    """Rows that the index proposes; None where they are too few for some query."""
    proposer, share = base.proposer, count / base.rows
    if proposer is None or not (proposer.filters or share >= MASKED_SHARE):
        return None
    if count == base.rows:
        found = proposer.rows(queries, k=k, params=params)
    elif proposer.filters:
        found = proposer.rows(queries, k=k, allowed=allowed, share=share, params=params)
    else:
        found = proposer.rows(queries, k=int(np.ceil(k / share)), params=params)
    chosen = [_allowed(rows, allowed) for rows in found]
    return chosen if all(len(rows) >= k for rows in chosen) else None


def _allowed(rows: Int64[np.ndarray, " candidates"], allowed: Bits) -> Rows:
    found: Rows = np.sort(rows[rows >= 0])  # rows in order are read faster from the disk
    found = found[row_sets.holds(allowed, found)]
    return found


def _best(
    vectors: Float32[np.ndarray, "rows dim"],
    query: Float32[np.ndarray, " dim"],
    rows: Rows,
    *,
    k: int | None = None,
) -> _Best:
    scores = exact_scores(vectors, query)
    order = np.lexsort((rows, -scores))[:k]
    return _Best(scores[order], rows[order])


def _merged(
    view: View,
    of_base: list[_Best],
    of_delta: list[_Best],
    *,
    k: int,
    include: Collection[Included],
) -> list[list[Hit]]:
    wanted = np.unique(np.concatenate([np.empty(0, np.int64), *(best.rows for best in of_base)]))
    stored = view.base.items.of_rows(wanted.tolist())
    delta = view.delta
    hits = []
    for base, new in zip(of_base, of_delta, strict=True):
        # Rows of the delta are -1 - row here.
        found = [
            (-score, stored[row].id.encode(), row)
            for score, row in zip(base.scores.tolist(), base.rows.tolist(), strict=True)
        ]
        found += [
            (-score, delta.ids[row].encode(), -1 - row)
            for score, row in zip(new.scores.tolist(), new.rows.tolist(), strict=True)
        ]
        found.sort()
        hits.append([_hit(view, stored, -loss, row, include) for loss, _, row in found[:k]])
    return hits


def _hit(
    view: View,
    stored: Mapping[int, StoredItem],
    score: float,
    row: int,
    include: Collection[Included],
) -> Hit:
    if row >= 0:
        id, metadata = stored[row].id, stored[row].metadata
        vector = view.base.vectors[row]
    else:
        id, metadata = view.delta.ids[-1 - row], view.delta.metadata[-1 - row]
        vector = view.delta.vectors(-row)[-1 - row]
    return Hit(
        id=id,
        score=score,
        metadata=dict(metadata) if "metadata" in include else None,
        vector=vector.copy() if "vector" in include else None,
    )
