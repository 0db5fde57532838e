"""Reads a store while another process writes; run by ``test_faiss_sharing`` and by the soak.

    python -m tests.app.store.faiss_store.reading_processes FOLDER SECONDS

Items carry a group and its generation; a writer always replaces a whole group in one call, so one
answer must not hold two generations of a group, nor a part of one.
"""

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import Found, Item, Store

DIM, GROUPS, GROUP_SIZE = 16, 12, 5
K = 100


def group_of(number: int, generation: int) -> list[Item]:
    """One group as of a generation."""
    rng = np.random.default_rng([number, generation])
    rows = rng.standard_normal((GROUP_SIZE, DIM)).astype(np.float32)
    metadata = {"group": number, "generation": generation}
    return [
        Item(id=f"g{number}-{i}", vector=row, metadata=metadata, thumbnail=b"small")
        for i, row in enumerate(rows)
    ]


def check_whole_groups(found: Found) -> None:
    """Fails if an answer mixes versions."""
    for hits in found.hits:
        seen = Counter((hit.metadata["group"], hit.metadata["generation"]) for hit in hits)
        assert set(seen.values()) <= {GROUP_SIZE}, seen
        assert len({group for group, _ in seen}) == len(seen), seen


def search_once(store: Store, rng: np.random.Generator) -> None:
    """One search over everything, checked."""
    queries = rng.standard_normal((rng.integers(1, 4), DIM))
    check_whole_groups(store.search(queries, k=K, include=["metadata"]))


def main(folder: Path, seconds: float) -> int:
    """Search until the time is up; prints searches and versions seen."""
    store, rng = FaissStore.open(folder), np.random.default_rng()
    searches, versions, end_s = 0, set(), time.monotonic() + seconds
    while time.monotonic() < end_s:
        search_once(store, rng)
        versions.add(store.info().version)
        searches += 1
    store.close()
    sys.stdout.write(f"{searches} {len(versions)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
