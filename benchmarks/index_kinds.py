"""Kinds of index over the same vectors: bytes a row, build, time of a search, recall.

    OMP_NUM_THREADS=1 python benchmarks/index_kinds.py --photos FOLDER --rows 1000000

Approximate kinds propose rows, which are scored again from stored float32 or float16 rows, as the
store does; of all efforts the quickest with the recall that the store wants is printed, and all
of them as lines of JSON. Times are CPU seconds and medians of CPU milliseconds of single queries,
so that other work on the machine counts little. Lists have the same centres in every kind.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from patch_vectors import BLOCK, PatchVectors
from store_speed import K, versions

from dino_app.store.faiss_store.search.approximate import RECALL_WANTED, chosen_kind
from dino_app.store.scores import ROUNDING, exact_scores

EXACT = ("SQfp16", "FlatIPPanorama8")
CODES = ("RaBitQfs", "RaBitQfs4", "FlatPanorama8", "RaBitQ4", "RaBitQfs2")
SHARES = (64, 32, 16, 8)  # of the lists one in so many is visited
SCORED = (10, 20, 50, 100, 300)
EXACT_QUERIES = 20
TRAINING_ROWS_A_LIST = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--codes", nargs="+", default=CODES, help="of what lists hold")
    parser.add_argument("--folder", type=Path, help="for the vectors; else a temporary folder")
    options = parser.parse_args(arguments)
    print(versions(), flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        vectors, half, queries = write(Path(place), options.photos, options.rows, options.queries)
        last = exact_ways(vectors, queries)
        lists = chosen_kind("auto", max(options.rows, 300_000)).split(",")[0]
        centres = trained(vectors, lists)
        for code in options.codes:
            approximate_ways(f"{lists},{code}", centres, vectors, half, queries, last)
    return 0


def write(
    place: Path, photos: Path, rows: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors in float32 and float16, mapped from files as those of a store, and queries."""
    source = PatchVectors(photos)
    files = {
        dtype: np.lib.format.open_memmap(
            place / f"{dtype}.npy", mode="w+", dtype=dtype, shape=(rows, source.dim)
        )
        for dtype in ("float32", "float16")
    }
    for start in range(0, rows, BLOCK):
        part = source.rows(start, min(start + BLOCK, rows))
        for file in files.values():
            file[start : start + len(part)] = part
    return files["float32"], files["float16"], source.block(-1)[:count]


def exact_ways(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Measure scans of everything; returns the score of each query's last true neighbour."""
    scores = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[0]

    def scan(query: np.ndarray) -> np.ndarray:
        return faiss.knn(query, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]

    some = queries[:EXACT_QUERIES]
    show("Flat", 4 * vectors.shape[1], 0.0, searched(scan, vectors, some, scores[:, -1]))
    for kind in EXACT:
        index, build_s = filled(kind, None, vectors)
        found = searched(lambda q, i=index: i.search(q, K)[1], vectors, some, scores[:, -1])
        show(kind, index.sa_code_size(), build_s, found)
    return scores[:, -1]


def trained(vectors: np.ndarray, lists: str) -> np.ndarray:
    """Centres of the lists."""
    index = faiss.index_factory(vectors.shape[1], f"{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    count = min(len(vectors), TRAINING_ROWS_A_LIST * index.nlist)
    rows = np.random.default_rng(0).choice(len(vectors), count, replace=False)
    start_s = time.process_time()
    index.train(vectors[np.sort(rows)])
    print(json.dumps({"training the lists_cpu_s": round(time.process_time() - start_s, 1)}))
    centres: np.ndarray = index.quantizer.reconstruct_n(0, index.nlist)
    return centres


def filled(kind: str, centres: np.ndarray | None, vectors: np.ndarray) -> tuple[Any, float]:
    """An index of all vectors, and the CPU seconds that it took."""
    index = faiss.index_factory(vectors.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    start_s = time.process_time()
    if centres is not None:
        faiss.downcast_index(faiss.extract_index_ivf(index).quantizer).add(centres)
    if not index.is_trained:
        index.train(vectors[:: max(1, len(vectors) // BLOCK)])
    for start in range(0, len(vectors), 4 * BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + 4 * BLOCK]))
    return index, time.process_time() - start_s


def approximate_ways(
    kind: str,
    centres: np.ndarray,
    vectors: np.ndarray,
    half: np.ndarray,
    queries: np.ndarray,
    last: np.ndarray,
) -> None:
    """Measure an index at every effort, and print the quickest that finds enough."""
    index, build_s = filled(kind, centres, vectors)
    ivf = faiss.extract_index_ivf(index)
    found = []
    for share, scored, rows in product(SHARES, SCORED, (vectors, half)):
        nprobe = max(1, ivf.nlist // share)
        params = faiss.SearchParametersIVF(nprobe=nprobe)

        def search(
            query: np.ndarray, params: Any = params, scored: int = scored, rows: Any = rows
        ) -> np.ndarray:
            return rescored(index.search(query, scored, params=params)[1][0], rows, query)

        one = searched(search, vectors, queries, last)
        one |= {"lists": nprobe, "scored": scored, "rows": str(rows.dtype)}
        print(json.dumps({"kind": kind, **one}), flush=True)
        found.append(one)
    for dtype in ("float32", "float16"):
        enough = [
            one for one in found if one["rows"] == dtype and one["recall_at_10"] >= RECALL_WANTED
        ]
        best = min(enough, key=lambda one: one["p50_cpu_ms"], default={"rows": dtype})
        show(kind, ivf.code_size, build_s, best)


def rescored(proposed: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The best of the rows proposed, by what is stored of them."""
    proposed = np.sort(proposed[proposed >= 0])
    scores = exact_scores(rows[proposed].astype(np.float32, copy=False), query[0])
    return proposed[np.argsort(-scores, kind="stable")[:K]][None]


def searched(
    search: Callable[[np.ndarray], np.ndarray],
    vectors: np.ndarray,
    queries: np.ndarray,
    last: np.ndarray,
) -> dict[str, Any]:
    """Time and recall of single queries; equal scores are as good."""
    times_ms, hits = [], 0
    for query, least in zip(queries, last, strict=False):
        start_s = time.process_time()
        rows = search(query[None])[0]
        times_ms.append(1e3 * (time.process_time() - start_s))
        hits += int(np.count_nonzero(vectors[rows[rows >= 0]] @ query >= least - ROUNDING))
    return {
        "p50_cpu_ms": round(float(np.median(times_ms)), 3),
        "recall_at_10": round(hits / (K * len(queries)), 4),
    }


def show(kind: str, row_bytes: int, build_s: float, found: dict[str, Any]) -> None:
    """Print a row of the table."""
    row = {"row_bytes": row_bytes, "build_cpu_s": round(build_s, 1), **found}
    print(json.dumps({"BEST": kind, **row}), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
