"""Approximate indexes: they propose rows, which are then scored exactly.

The default divides the vectors into lists and keeps one bit a value of what is left of each
(IVF + RaBitQ): 60 bytes a row for 384 values, built in a minute per million, any rows excluded at
search time. How many lists are visited and how many rows are scored is raised until
the recall that is measured on this very base suffices.
"""

import logging
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Int64

from dino_app.errors import StoreError
from dino_app.store.faiss_store.disk.manifest import IndexNote
from dino_app.store.faiss_store.search import exact as scan
from dino_app.store.faiss_store.search.exact import Queries, Vectors
from dino_app.store.faiss_store.search.row_sets import Bits
from dino_app.store.interface import SearchParams
from dino_app.store.scores import ROUNDING

logger = logging.getLogger(__name__)

FLAT = "Flat"
NAME = "index.faiss"
EXACT_ROWS = 200_000
"""Largest number of rows for exact search: about 15 ms a query on one core, at 384 values."""
RECALL_WANTED = 0.992  # 0.99 and what a sample of 1,000 queries may be off
QUERIES = 1000
K = 10
CANDIDATES = (100, 300, 1000)
_ROWS_AT_ONCE = 65_536
_TRAINING_ROWS_A_LIST = 64
_SEED = 0
_FAISS: Any = faiss  # its type hints lack what it adds to SearchParameters

faiss.set_deserialization_vector_byte_limit(1 << 38)
faiss.set_deserialization_loop_limit(1 << 32)


class Proposer:
    """An index of one base, never changed, so that any number of threads may search it."""

    def __init__(self, index: Any, note: IndexNote) -> None:
        self._index = index
        self.note = note
        self.filters = _takes_selectors(index)

    def rows(
        self,
        queries: Queries,
        *,
        k: int,
        allowed: Bits | None = None,
        share: float = 1.0,
        params: SearchParams | None = None,
    ) -> Int64[np.ndarray, "queries candidates"]:
        """Rows that are probably among the k nearest, -1 where there are no more.

        Args:
            queries: Unit rows.
            k: Rows wanted in the end.
            allowed: The rows that count, only where ``filters``.
            share: Share of all rows that they are: few are farther off, and looked for
                farther.
            params: Effort, instead of what was measured.
        """
        wanted = min(self._index.ntotal, max(self.note.candidates * max(1, k // K), k))
        with scan.threads_for(len(queries)):
            effort = int(self.note.effort / share)
            search = _parameters(self._index, allowed, effort, params or SearchParams())
            found = self._index.search(np.ascontiguousarray(queries), wanted, params=search)
        rows: Int64[np.ndarray, "queries candidates"] = found[1]
        return rows

    def write(self, path: Path) -> None:
        """Store it.

        Raises:
            OSError: It cannot be written.
        """
        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:
            raise OSError(f"{path} cannot be written: {error}") from error


def chosen_kind(wanted: str, rows: int) -> str:
    """Kind of index to build."""
    if wanted.lower() == "flat" or rows == 0 or (wanted == "auto" and rows <= EXACT_ROWS):
        return FLAT
    if wanted != "auto":
        return wanted
    lists = 2 ** round(np.log2(np.sqrt(rows)))
    return f"IVF{lists},RaBitQfs"


def check_kind(wanted: str, dim: int) -> None:
    """Refuse what FAISS cannot make.

    Raises:
        ValueError: It is no factory string, or not for this width.
    """
    if wanted.lower() not in ("auto", "flat"):
        _empty_index(wanted, dim)


def built(vectors: Vectors, *, kind: str) -> Proposer | None:
    """An index over vectors, tuned to the recall wanted; None where FAISS cannot use it."""
    index = _empty_index(kind, vectors.shape[1])
    rng = np.random.default_rng(_SEED)
    try:
        if not index.is_trained:
            index.train(_training_rows(vectors, index, rng))
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            index.add(np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE]))
        return _tuned(index, kind, vectors, rng)
    except RuntimeError as error:
        logger.warning("%s cannot be used for %d rows: %s", kind, len(vectors), _line(error))
        return None


def read(path: Path, note: IndexNote, *, rows: int, dim: int) -> Proposer:
    """An index from a file whose hash was checked.

    Raises:
        StoreError: It is none, or not of these vectors.
    """
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise StoreError(f"{path.name} is no index: {error}") from error
    if (index.ntotal, index.d) != (rows, dim):
        raise StoreError(f"{path.name} holds {index.ntotal} x {index.d}, expected {rows} x {dim}")
    return Proposer(index, note)


def _empty_index(kind: str, dim: int) -> Any:
    try:
        return faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        text = f"FAISS makes no index {kind!r} of width {dim}: {_line(error)}"
        raise ValueError(text) from error


def _line(error: RuntimeError) -> str:
    """Message of FAISS, without the place in its sources."""
    return str(error).strip().splitlines()[-1].rpartition("Error: ")[2]


def _training_rows(vectors: Vectors, index: Any, rng: np.random.Generator) -> Vectors:
    ivf = _ivf(index)
    wanted = max(_ROWS_AT_ONCE, _TRAINING_ROWS_A_LIST * (ivf.nlist if ivf is not None else 0))
    rows = rng.choice(len(vectors), min(wanted, len(vectors)), replace=False)
    return np.ascontiguousarray(vectors[np.sort(rows)])


def _tuned(index: Any, kind: str, vectors: Vectors, rng: np.random.Generator) -> Proposer:
    """The index with the least effort that finds enough, or else with the most."""
    sample = np.sort(rng.choice(len(vectors), min(QUERIES, len(vectors)), replace=False))
    queries = np.ascontiguousarray(vectors[sample])
    k = min(K, len(vectors) - 1)
    best, _ = scan.knn(vectors, queries, k=k + 1, allowed=None)
    proposer, recall = Proposer(index, IndexNote(kind=kind)), 0.0
    for effort, candidates in product(_efforts(index), CANDIDATES):
        note = IndexNote(kind=kind, candidates=candidates, effort=effort)
        found = Proposer(index, note).rows(queries, k=K)
        recall = _recall(vectors, queries, sample, found, best[:, -1], k=k)
        proposer = Proposer(index, replace(note, recall_at_10=round(recall, 4)))
        if recall >= RECALL_WANTED:
            break
    return proposer


def _efforts(index: Any) -> list[int]:
    """Lists to visit or candidates to keep, from quick to thorough."""
    if (ivf := _ivf(index)) is not None:
        return [max(1, ivf.nlist // part) for part in (64, 32, 16, 8, 4, 2, 1)]
    if isinstance(index, faiss.IndexHNSW):
        return [64, 128, 256, 512, 1024]
    return [0]


def _recall(
    vectors: Vectors,
    queries: Queries,
    own: Int64[np.ndarray, " queries"],
    found: Int64[np.ndarray, "queries candidates"],
    last_scores: Float32[np.ndarray, " queries"],
    *,
    k: int,
) -> float:
    """Share of the k nearest others that are among the rows found; equal scores are as good."""
    hits = 0
    for query, row, rows, last in zip(queries, own, found, last_scores, strict=True):
        rows = rows[(rows >= 0) & (rows != row)]
        scores = vectors[rows] @ query
        hits += min(k, int(np.count_nonzero(scores >= last - ROUNDING)))
    return hits / (k * len(queries)) if k else 1.0


def _ivf(index: Any) -> Any | None:
    found = faiss.try_extract_index_ivf(index)
    return None if found is None else faiss.downcast_index(found)


def _takes_selectors(index: Any) -> bool:
    allowed = np.full(index.ntotal // 8 + 1, 255, np.uint8)
    query = np.zeros((1, index.d), np.float32)
    try:
        index.search(query, 1, params=_parameters(index, allowed, 0, SearchParams()))
    except RuntimeError:
        return False
    return True


def _parameters(index: Any, allowed: Bits | None, effort: int, params: SearchParams) -> Any:
    chosen = None if allowed is None else scan.selector(allowed)
    if (ivf := _ivf(index)) is not None:
        nprobe = min(params.nprobe or effort or ivf.nprobe, ivf.nlist)
        return _FAISS.SearchParametersIVF(sel=chosen, nprobe=nprobe)
    if isinstance(index, faiss.IndexHNSW):
        ef = min(params.ef or effort or index.hnsw.efSearch, max(1, index.ntotal))
        return _FAISS.SearchParametersHNSW(sel=chosen, efSearch=ef)
    return None if chosen is None else _FAISS.SearchParameters(sel=chosen)
