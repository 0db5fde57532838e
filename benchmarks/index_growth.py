"""What an index costs as it grows: build, disk, memory, time of a search, recall.

    OMP_NUM_THREADS=1 python benchmarks/index_growth.py --photos FOLDER --rows 100000 1000000

Builds the base that dino-index builds, as the last merge of a build writes it, with the
store's own code: items, vectors, index, hashes. Vectors come from ``patch_vectors.py``, block by
block, so that one copy of them is on the disk. What making them takes is timed apart. Times are
CPU seconds of this process unless they say otherwise; each size is a process of its own.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from patch_vectors import BLOCK, PatchVectors
from store_speed import QUERIES, K, apart, memory_mb, versions

from dino_app.store.faiss_store import FaissStore, base
from dino_app.store.faiss_store.disk import head, item_table
from dino_app.store.faiss_store.disk.log import EMPTY_CHAIN, LogWriter, log_path
from dino_app.store.faiss_store.disk.manifest import IndexNote, Manifest
from dino_app.store.faiss_store.search import approximate
from dino_app.store.scores import ROUNDING
from dino_infer.files import write_bytes


class Made:
    """Vectors that ``base.VectorParts`` takes in order, made when they are asked for."""

    def __init__(self, source: PatchVectors, rows: int) -> None:
        self._source, self.shape = source, (rows, source.dim)
        self.cpu_s = 0.0

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        start_s = time.process_time()
        found = self._source.rows(int(rows[0]), int(rows[-1]) + 1)
        self.cpu_s += time.process_time() - start_s
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, search and print a line of JSON for each number of rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--index", default="auto")
    parser.add_argument("--folder", type=Path, help="where to build; else a temporary folder")
    options = parser.parse_args(arguments)
    print(versions(), flush=True)
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as place:
            index = Path(place) / "index"
            found: dict[str, Any] = {"rows": rows}
            for work in (build, search):
                found |= apart(work, index, options.photos, rows, options.index)
                print(json.dumps(found), flush=True)
    return 0


def build(folder: Path, photos: Path, rows: int, wanted: str) -> dict[str, Any]:
    """Write a store of one base."""
    source = PatchVectors(photos)
    folder.mkdir()
    wall_s = time.perf_counter()
    times: dict[str, float] = {}
    writer = base.BaseWriter(folder, number=1)

    def items() -> Any:
        for row in range(rows):
            text = json.dumps({"path": name(row), "label": f"class-{row % 1000}", "width": 500})
            yield item_table.NewItem(-1 - row, name(row), text, None)

    order = timed(
        times,
        "items",
        lambda: item_table.write_items(
            writer.folder / item_table.NAME, old=None, dead=[], new=items()
        ),
    )
    made = Made(source, rows)
    parts = base.VectorParts(None, made, order)
    vectors = timed(times, "vectors", lambda: writer.write_vectors(parts))
    times["vectors"] -= made.cpu_s
    kind = approximate.chosen_kind(wanted, rows)
    proposer = None
    if kind != approximate.FLAT:
        proposer = approximate_index(vectors, kind, times)
    own_mb = memory_mb("RssAnon")
    flat = IndexNote(kind=approximate.FLAT)
    like = Manifest(dim=source.dim, rows=0, index=flat, wanted_index=wanted, model={}, files={})
    digest = timed(times, "hashes", lambda: writer.finish(vectors, like=like, proposer=proposer))
    publish(folder, writer.target.name, digest)
    return {
        "build_cpu_s": {name: round(seconds, 1) for name, seconds in times.items()},
        "build_wall_s": round(time.perf_counter() - wall_s, 1),
        "making_vectors_cpu_s": round(made.cpu_s, 1),
        "own_memory_after_index_mb": round(own_mb),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        "disk_mb": {
            path.name: round(path.stat().st_size / 1e6) for path in sorted(writer.target.iterdir())
        },
        "index": None if proposer is None else vars(proposer.note),
    }


def approximate_index(
    vectors: np.ndarray, kind: str, times: dict[str, float]
) -> approximate.Proposer:
    """``approximate.built``, step by step."""
    rng = np.random.default_rng(0)
    index = approximate._empty_index(kind, vectors.shape[1])
    sample = timed(times, "sample", lambda: approximate._training_rows(vectors, index, rng))
    timed(times, "train", lambda: index.train(sample))

    def add() -> None:
        for start in range(0, len(vectors), BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))

    timed(times, "add", add)
    found: approximate.Proposer = timed(
        times, "tune", lambda: approximate._tuned(index, kind, vectors, rng)
    )
    return found


def publish(folder: Path, name: str, digest: str) -> None:
    """Make the base the state of a store without operations."""
    LogWriter(log_path(folder, 1), end=0).close()
    state = head.Head(
        commit=0,
        base=name,
        manifest_sha256=digest,
        base_sequence=0,
        base_chain=EMPTY_CHAIN,
        log=1,
        sequence=0,
        chain=EMPTY_CHAIN,
    )
    write_bytes(folder / head.NAME, head.first_slots(state))


def search(folder: Path, photos: Path, rows: int, wanted: str) -> dict[str, Any]:
    """Open the store and search it, one query at a time, for vectors that are not in it."""
    queries = PatchVectors(photos).block(-1)[:QUERIES]
    before = memory_mb("RssAnon")
    start_s = time.perf_counter()
    store = FaissStore.open(folder)
    ready_s = time.perf_counter() - start_s
    for query in queries[:50]:
        store.search(query[None], k=K)
    wall_ms, cpu_ms, found = [], [], []
    for query in queries:
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        (hits,) = store.search(query[None], k=K).hits
        wall_ms.append(1e3 * (time.perf_counter() - start_s))
        cpu_ms.append(1e3 * (time.process_time() - start_cpu_s))
        found.append([hit.score for hit in hits])
    own_mb = memory_mb("RssAnon") - before
    return {
        "ready_s": round(ready_s, 2),
        "p50_ms": round(float(np.percentile(wall_ms, 50)), 2),
        "p99_ms": round(float(np.percentile(wall_ms, 99)), 2),
        "p50_cpu_ms": round(float(np.percentile(cpu_ms, 50)), 2),
        "own_memory_mb": round(own_mb),
        "recall_at_10": round(recall(folder, queries, np.array(found)), 4),
    }


def recall(folder: Path, queries: np.ndarray, found: np.ndarray) -> float:
    """Share of the hits that are as near as the true neighbours, by a scan of all vectors."""
    (path,) = folder.glob("base-*/" + base.VECTORS)
    vectors = np.load(path, mmap_mode="r")
    best = np.full((len(queries), K), -np.inf, np.float32)
    for start in range(0, len(vectors), 4 * BLOCK):
        scores = queries @ vectors[start : start + 4 * BLOCK].T
        scores = np.concatenate([best, np.partition(scores, -K, axis=1)[:, -K:]], axis=1)
        best = np.partition(scores, -K, axis=1)[:, -K:]
    return float((found >= best.min(axis=1, keepdims=True) - ROUNDING).mean())


def name(row: int) -> str:
    """Id of a row; ids come in the order of the rows."""
    return f"image-{row:09d}.jpg"


def timed(times: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """Do it, and keep its CPU seconds."""
    start_s = time.process_time()
    found = work()
    times[name] = time.process_time() - start_s
    return found


if __name__ == "__main__":
    raise SystemExit(main())
