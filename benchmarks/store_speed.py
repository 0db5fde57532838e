"""The embedded store against bare FAISS and Milvus Lite: speed, recall, building, memory, start.

    OMP_NUM_THREADS=1 python benchmarks/store_speed.py --rows 100000 --milvus
    OMP_NUM_THREADS=1 python benchmarks/store_speed.py --rows 1000000

Each way is a process of its own, one after the other in every round, so that memory is its own and
other work on the machine hits all of them. The store is built as a user would build it: upserts
with ids, metadata and background merges.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

K = 10
QUERIES = 300
ROWS_A_CALL = 20_000
CLUSTERS = 2000
NOISE = 1.0  # length of the noise, with centres of length 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--index", default="auto", help="of the store")
    parser.add_argument("--milvus", action="store_true", help="measure Milvus Lite as well")
    parser.add_argument(
        "--folder", type=Path, help="where to build; a temporary folder if left out"
    )
    options = parser.parse_args(arguments)
    ways = {"store": store_way, "bare FAISS Flat": bare_way}
    if options.milvus:
        ways["Milvus Lite"] = milvus_way
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = Path(folder)
        write_data(place, options.rows, options.dim)
        print(f"{options.rows:,} x {options.dim}, k = {K}\n{versions()}", flush=True)
        built = apart(build_store, place, options.index)
        print(json.dumps({"building the store": built}), flush=True)
        if options.milvus:
            print(json.dumps({"building Milvus Lite": apart(build_milvus, place)}), flush=True)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for number in range(options.rounds):
            for name, way in ways.items():
                found[name].append(apart(way, place))
                print(f"round {number + 1}, {name}: {json.dumps(found[name][-1])}", flush=True)
    report(found)
    return 0


def clustered(rows: int, dim: int, rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    """Unit rows around centres."""
    found = np.empty((rows, dim), np.float32)
    for start in range(0, rows, 50_000):
        part = found[start : start + 50_000]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32) * (NOISE / np.sqrt(dim))
        part += centres[rng.integers(0, len(centres), len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found


def write_data(place: Path, rows: int, dim: int) -> None:
    """Vectors, queries that are not among them, and the true neighbours."""
    import faiss

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors, queries = (clustered(count, dim, rng, centres) for count in (rows, QUERIES))
    _, near = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)
    for name, array in (("vectors", vectors), ("queries", queries), ("near", near)):
        np.save(place / f"{name}.npy", array)


def item_id(row: int) -> str:
    """Like a path in a folder of classes."""
    return f"class-{row % 1000:03d}/image-{row:08d}.jpg"


def items(vectors: np.ndarray, start: int) -> list[Any]:
    """Items as dino-index makes them, less thumbnails."""
    from dino_app.store.interface import Item

    return [
        Item(
            id=item_id(row),
            vector=vectors[row],
            metadata={"path": item_id(row), "label": f"class-{row % 1000}", "width": 500 + row % 9},
        )
        for row in range(start, min(start + ROWS_A_CALL, len(vectors)))
    ]


def build_store(place: Path, index: str) -> dict[str, Any]:
    """Upserts of all vectors, and one merge."""
    from dino_app.store.faiss_store import FaissStore

    vectors = np.load(place / "vectors.npy", mmap_mode="r")
    store = FaissStore.create(place / "store", dim=vectors.shape[1], model={}, index=index)
    start_s = time.perf_counter()
    for start in range(0, len(vectors), ROWS_A_CALL):
        store.upsert(items(vectors, start))
    upserts_s = time.perf_counter() - start_s
    store.close()
    store = FaissStore.open(place / "store", writable=True)
    start_s = time.perf_counter()
    store.merge()
    merge_s = time.perf_counter() - start_s
    info = store.info()
    store.close()
    size = sum(path.stat().st_size for path in (place / "store").rglob("*") if path.is_file())
    return {
        "upserts_s": round(upserts_s, 1),
        "rows_per_s": round(len(vectors) / upserts_s),
        "last_merge_s": round(merge_s, 1),
        "index": info.index,
        "recall_at_10_measured_when_built": info.recall_at_10,
        "disk_mb": round(size / 1e6),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def store_way(place: Path) -> dict[str, Any]:
    """A reader of the store."""
    from dino_app.store.faiss_store import FaissStore

    before = memory_mb()
    start_s = time.perf_counter()
    store = FaissStore.open(place / "store")
    ready_s = time.perf_counter() - start_s

    def search(queries: np.ndarray) -> list[list[str]]:
        return [[hit.id for hit in hits] for hits in store.search(queries, k=K).hits]

    return {"ready_s": round(ready_s, 2), **searched(place, search, before)}


def bare_way(place: Path) -> dict[str, Any]:
    """FAISS itself, which knows no ids."""
    import faiss

    before = memory_mb()
    start_s = time.perf_counter()
    vectors = np.load(place / "vectors.npy")
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    del vectors
    ready_s = time.perf_counter() - start_s

    def search(queries: np.ndarray) -> list[list[str]]:
        _, rows = index.search(queries, K)
        return [[item_id(row) for row in found] for found in rows.tolist()]

    return {"ready_s": round(ready_s, 2), **searched(place, search, before)}


def build_milvus(place: Path) -> dict[str, Any]:
    """Inserts of all vectors into Milvus Lite."""
    from pymilvus import MilvusClient

    vectors = np.load(place / "vectors.npy", mmap_mode="r")
    client = MilvusClient(str(place / "lite.db"))
    client.create_collection(
        "items",
        dimension=vectors.shape[1],
        id_type="string",
        max_length=100,
        metric_type="IP",
        consistency_level="Strong",
    )
    start_s = time.perf_counter()
    for start in range(0, len(vectors), 2000):
        part = range(start, min(start + 2000, len(vectors)))
        client.insert("items", [{"id": item_id(row), "vector": vectors[row]} for row in part])
    client.flush("items")
    seconds = time.perf_counter() - start_s
    client.close()
    return {"inserts_s": round(seconds, 1), "rows_per_s": round(len(vectors) / seconds)}


def milvus_way(place: Path) -> dict[str, Any]:
    """Milvus Lite in this process, with the index that it chooses."""
    from pymilvus import MilvusClient

    before = memory_mb()
    start_s = time.perf_counter()
    client = MilvusClient(str(place / "lite.db"))
    client.load_collection("items")
    ready_s = time.perf_counter() - start_s

    def search(queries: np.ndarray) -> list[list[str]]:
        return [[hit["id"] for hit in hits] for hits in client.search("items", queries, limit=K)]

    return {"ready_s": round(ready_s, 2), **searched(place, search, before)}


def searched(
    place: Path, search: Callable[[np.ndarray], list[list[str]]], before_mb: float
) -> dict[str, Any]:
    """Times of single queries, recall, and what it all takes in memory."""
    queries, near = np.load(place / "queries.npy"), np.load(place / "near.npy")
    for query in queries[:20]:
        search(query[None])
    times_ms, hits = [], 0
    for query, rows in zip(queries, near, strict=True):
        start_s = time.perf_counter()
        (found,) = search(query[None])
        times_ms.append(1e3 * (time.perf_counter() - start_s))
        hits += len(set(found) & {item_id(row) for row in rows.tolist()})
    return {
        "p50_ms": round(float(np.percentile(times_ms, 50)), 2),
        "p99_ms": round(float(np.percentile(times_ms, 99)), 2),
        "queries_per_s": round(1e3 * len(queries) / sum(times_ms), 1),
        "recall_at_10": round(hits / near.size, 4),
        "own_memory_mb": round(memory_mb("RssAnon") - before_mb),
        "mapped_files_mb": round(memory_mb("RssFile")),
    }


def memory_mb(kind: str = "RssAnon") -> float:
    """Memory of this process: its own, or of files that the system may drop."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind + ":"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a process of its own finds out."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Medians over the rounds, and ratios of paired rounds."""
    for name, rounds in found.items():
        medians = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(f"{name}, median of {len(rounds)}: {json.dumps(medians)}")
    for name, rounds in found.items():
        ratios = [
            other["p50_ms"] / own["p50_ms"]
            for own, other in zip(found["store"], rounds, strict=True)
        ]
        print(f"p50 of {name} / p50 of the store: {statistics.median(ratios):.2f}")


def versions() -> str:
    """Of what is measured."""
    import faiss

    return (
        f"Python {platform.python_version()}, faiss {faiss.__version__}, numpy {np.__version__}, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}, {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    sys.exit(main())
