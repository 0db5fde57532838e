"""The embedded store under load for minutes: threads and processes, memory and open files.

    OMP_NUM_THREADS=1 python benchmarks/store_soak.py --minutes 5

Two threads write, eight search, two other processes read. Every write replaces a whole group of
items, so an answer that holds a part of a group, or two generations of one, mixes two versions.
Nothing may crash or mix, and after the first minute memory and open files must stay level.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "app")]

from dino_app.store.faiss_store import FaissStore, merging  # noqa: E402
from tests.app.store.faiss_store.reading_processes import GROUPS, group_of, search_once  # noqa: E402

WRITERS, SEARCHERS, READERS = 2, 8, 2
WARM_UP = 0.2  # share of the time
MEMORY_GROWTH_MB = 60  # thumbnails, logs and merges come and go
FILE_GROWTH = 12


class Counts:
    """What was done, and what went wrong."""

    def __init__(self) -> None:
        self.writes = 0
        self.searches = 0
        self.errors: list[BaseException] = []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a line now and then, and return 1 if something went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--merge-rows", type=int, default=500, help="changed rows before a merge")
    options = parser.parse_args(arguments)
    merging.LEAST_ROWS, merging.SHARE = options.merge_rows, 0.0
    seconds = 60 * options.minutes
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "store"
        store = FaissStore.create(folder, dim=len(group_of(0, 0)[0].vector), model={})
        for number in range(GROUPS):
            store.upsert(group_of(number, 0))
        readers = [reader(folder, seconds) for _ in range(READERS)]
        counts = Counts()
        threads = [threading.Thread(target=work) for work in works(store, counts, seconds)]
        for thread in threads:
            thread.start()
        samples = watch(counts, seconds)
        for thread in threads:
            thread.join()
        outputs = [process.communicate()[0].strip() for process in readers]
        store.close()
        print(f"readers in other processes (searches, versions): {outputs}")
        bases = sorted(path.name for path in folder.glob("base-*"))
        print(f"bases left: {bases}")
    failed = [process for process in readers if process.returncode]
    for error in counts.errors:
        print(f"error: {error!r}")
    return int(bool(failed or counts.errors) or not level(samples))


def works(store: FaissStore, counts: Counts, seconds: float) -> list[Callable[[], None]]:
    """What each thread does until the time is up."""
    end_s = time.monotonic() + seconds

    def search(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end_s and not counts.errors:
            search_once(store, rng)
            counts.searches += 1

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        while time.monotonic() < end_s and not counts.errors:
            number = int(rng.integers(GROUPS // WRITERS)) * WRITERS + seed
            if rng.random() < 0.2:
                store.delete([item.id for item in group_of(number, 0)])
            else:
                store.upsert(group_of(number, int(rng.integers(1, 10**6))))
            counts.writes += 1

    def guarded(work: Callable[[int], None], seed: int) -> Callable[[], None]:
        def run() -> None:
            try:
                work(seed)
            except BaseException as error:
                counts.errors.append(error)

        return run

    return [guarded(write, seed) for seed in range(WRITERS)] + [
        guarded(search, seed) for seed in range(SEARCHERS)
    ]


def watch(counts: Counts, seconds: float) -> list[tuple[float, int]]:
    """Memory in MB and open files, thirty times."""
    samples = []
    for _ in range(30):
        time.sleep(seconds / 30)
        samples.append((memory_mb(), len(os.listdir("/proc/self/fd"))))
        print(
            f"{counts.searches} searches, {counts.writes} writes, "
            f"{samples[-1][0]:.0f} MB, {samples[-1][1]} files",
            flush=True,
        )
    return samples


def level(samples: list[tuple[float, int]]) -> bool:
    """Whether memory and files stayed where they were after the first part."""
    later = samples[int(WARM_UP * len(samples)) :]
    half = len(later) // 2
    growth = [
        float(np.median([sample[i] for sample in later[half:]]))
        - float(np.median([sample[i] for sample in later[:half]]))
        for i in range(2)
    ]
    print(f"growth from the first to the second half: {growth[0]:.1f} MB, {growth[1]:.0f} files")
    return growth[0] < MEMORY_GROWTH_MB and growth[1] < FILE_GROWTH


def reader(folder: Path, seconds: float) -> "subprocess.Popen[str]":
    """Another process that searches."""
    command = [
        sys.executable,
        "-m",
        "tests.app.store.faiss_store.reading_processes",
        folder,
        str(seconds),
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "app")])}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def memory_mb() -> float:
    """Of this process, without mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1e3
    return float("nan")


if __name__ == "__main__":
    sys.exit(main())
