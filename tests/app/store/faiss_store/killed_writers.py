"""Kills writers of a store at random moments and before every step on disk.

One process imports everything, which takes seconds, and forks a victim for each run.

    python -m tests.app.store.faiss_store.killed_writers KILLS OUT
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dino_app.store.faiss_store import FaissStore, merging
from dino_app.store.interface import Item, Store
from tests.app.store.oracle import NumpyStore
from tests.killing import exit_code, forked, kill_before_step

DIM = 16
IDS = 300
LATEST_S = 0.25  # after a victim has begun to write
STEPS = ("replace", "rename", "link", "unlink", "mkdir", "rmdir", "pwrite", "ftruncate", "fsync")
STEPS += ("fdatasync",)
"""Functions of ``os`` that change what is on the disk."""

merging.LEAST_ROWS = 100  # so that many are killed while they merge
merging.SHARE = 0.0


def change(store: Store, number: int) -> None:
    """One operation, the same for the same number."""
    rng = np.random.default_rng(number)
    ids = [f"id-{i}" for i in rng.choice(IDS, rng.integers(1, 40), replace=False)]
    if number % 4 == 3:
        store.delete(ids)
        return
    rows = rng.standard_normal((len(ids), DIM)).astype(np.float32)
    store.upsert(
        [
            Item(id=id, vector=row, metadata={"by": number}, thumbnail=f"{number} {id}".encode())
            for id, row in zip(ids, rows, strict=True)
        ]
    )


def write_for_ever(folder: Path, acks: Path, number: int) -> int:
    """Operations in order, each noted when it is begun and when it is done."""
    notes = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    store = FaissStore.open(folder, writable=True)
    while True:
        os.write(notes, f"begin {number}\n".encode())
        change(store, number)
        os.write(notes, f"done {number}\n".encode())
        number += 1


def contents(store: Store) -> list[tuple]:
    """Everything in a store, comparable."""
    items = (item for part in store.items() for item in part)
    return sorted(
        (item.id, item.vector.tobytes(), sorted(item.metadata.items()), item.thumbnail)
        for item in items
    )


def state_of(folder: Path) -> list[tuple]:
    """What a folder holds when it is opened again."""
    store = FaissStore.open(folder)
    try:
        return contents(store)
    finally:
        store.close()


def random_kills(out: Path, kills: int) -> dict[str, int]:
    """One store, whose writer is killed again and again; what was acknowledged must be there."""
    folder, acks = out / "store", out / "acks"
    FaissStore.create(folder, dim=DIM, model={}).close()
    oracle, rng, number, merges = NumpyStore(dim=DIM), random.Random(0), 0, 0
    halves = 0
    for _ in range(kills):
        acks.write_bytes(b"")
        process = forked(partial(write_for_ever, folder, acks, number))
        while not acks.stat().st_size:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, LATEST_S))
        os.kill(process, signal.SIGKILL)
        assert exit_code(process) is None, "a writer failed"
        lines = acks.read_text().splitlines()
        for line in lines:
            if line.startswith("done"):
                change(oracle, number)
                number += 1
        merges += any(folder.glob("base-*.tmp"))
        FaissStore.open(folder, writable=True).close()  # the next writer decides
        found = state_of(folder)
        if found != contents(oracle):
            change(oracle, number)  # the one that was begun, in full
            number += 1
            halves += 1
            assert found == contents(oracle), f"after operation {number}"
    return {"operations": number, "in_merges": merges, "finished_later": halves}


def kills_at_every_step(out: Path) -> dict[str, int]:
    """Stores that are killed before each step of an operation: as before it, or as after it."""
    start = out / "start"
    store = FaissStore.create(start, dim=DIM, model={})
    for number in range(3):
        change(store, number)
    store.snapshot("early")
    store.merge()
    change(store, 3)
    change(store, 4)
    store.close()
    works = {
        "upsert": lambda store: change(store, 5),
        "delete": lambda store: change(store, 7),
        "merge": lambda store: store.merge(),
        "snapshot": lambda store: store.snapshot("late"),
        "restore": lambda store: store.restore("early"),
    }
    return {name: _kill_before_each(work, start, out / name) for name, work in works.items()}


def _kill_before_each(work: Callable[[FaissStore], None], start: Path, out: Path) -> int:
    whole = Path(shutil.copytree(start, out / "whole"))
    store = FaissStore.open(whole, writable=True)
    work(store)
    after = contents(store)
    store.close()
    before, steps, code = state_of(start), 0, None
    while code is None:
        folder = Path(shutil.copytree(start, out / f"step-{steps:03}"))
        process = forked(partial(_fused, work, folder, steps))
        code = exit_code(process)
        assert code in (None, 0), "a victim failed"
        check_survivor(folder, before, after)
        steps += 1
        shutil.rmtree(folder)
    return steps - 1


def check_survivor(folder: Path, before: list[tuple], after: list[tuple]) -> None:
    """Reader and writer find one of two states, and the store works on."""
    assert state_of(folder) in (before, after)
    store = FaissStore.open(folder, writable=True)
    found = contents(store)
    assert found in (before, after)
    assert set(store.snapshots()) <= {"early", "late"}
    change(store, 9)
    store.merge()
    changed = contents(store)
    for name in store.snapshots():
        store.restore(name)
    store.restore("early")
    store.close()
    assert changed != found and state_of(folder) != changed


def _fused(work: Callable[[FaissStore], None], folder: Path, fuse: int) -> int:
    store = FaissStore.open(folder, writable=True)
    kill_before_step(fuse, steps=STEPS)
    work(store)
    return 0


if __name__ == "__main__":
    kills, out = int(sys.argv[1]), Path(sys.argv[2])
    for name in ("random", "steps"):
        (out / name).mkdir()
    report = {
        "random": random_kills(out / "random", kills),
        "steps": kills_at_every_step(out / "steps"),
    }
    (out / "report.json").write_text(json.dumps(report))
