"""Time and memory of listing a million images: a folder, a list file, tar shards.

    python benchmarks/listing.py --files 1000000

Each case runs in a process of its own, on empty files in a temporary folder that is deleted
afterwards. Memory is the growth of the resident set over the imports: the peak while listing,
and what stays.
"""

import argparse
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES_PER_FOLDER = 1000
CASES = ("folder", "flat folder", "list file", "tar shards")
HEADINGS = (
    "import s",
    "list s",
    "peak MB",
    "kept MB",
    "labels s",
    "select s",
    "pickle s",
    "pickle MB",
    "name us",
)


def main(arguments: list[str] | None = None) -> None:
    """Measure every case and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000, help="images in each case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--folder", type=Path, help="where to make the files (default: TMPDIR)")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measured(options.measure)))
        return
    print(f"{options.files:,} images, Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    print(f"{'case':12}" + "".join(f"{heading:>15}" for heading in HEADINGS))
    for case in options.cases:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            sources = make(case, Path(folder), options.files)
            command = [sys.executable, __file__, "--measure", *map(str, sources)]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(result.stdout)
        print(f"{case:12}" + "".join(f"{row[heading]:15.2f}" for heading in HEADINGS), flush=True)


def make(case: str, folder: Path, files: int) -> list[Path]:
    """Create the images of one case and return its sources."""
    names = [f"class_{i // FILES_PER_FOLDER:04}/image_{i:08}.jpg" for i in range(files)]
    if case == "list file":
        (folder / "list.txt").write_text("".join(f"../photos/{name}\n" for name in names))
        return [folder / "list.txt"]
    if case == "tar shards":
        return [
            make_shard(folder / f"shard_{start:08}.tar", names[start : start + FILES_PER_FOLDER])
            for start in range(0, files, FILES_PER_FOLDER)
        ]
    for start in range(0, files, FILES_PER_FOLDER):
        if case == "folder":
            (folder / names[start]).parent.mkdir()
        for name in names[start : start + FILES_PER_FOLDER]:
            path = folder / name if case == "folder" else folder / Path(name).name
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    return [folder]


def make_shard(path: Path, names: list[str]) -> Path:
    """Write a tar whose members are empty."""
    with tarfile.open(path, "w") as shard:
        for name in names:
            shard.addfile(tarfile.TarInfo(name))
    return path


def measured(sources: list[str]) -> dict[str, float]:
    """List the sources in this process and time what users of the list do with it."""
    start = time.perf_counter()
    from dino_infer.sources.image_list import list_images

    row = {"import s": time.perf_counter() - start}
    before = resident_mb()
    images, row["list s"] = timed(lambda: list_images(sources))
    row["kept MB"] = resident_mb() - before
    row["peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    _, row["labels s"] = timed(images.labels)
    order = random.Random(0).sample(range(len(images)), len(images))
    _, row["select s"] = timed(lambda: images.select(order))
    pickled, row["pickle s"] = timed(lambda: pickle.dumps(images))
    row["pickle MB"] = len(pickled) / 2**20
    some = order[:100_000]
    _, seconds = timed(lambda: [images.name(i) for i in some])
    row["name us"] = seconds / len(some) * 1e6
    return row


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` returns, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def resident_mb() -> float:
    """The resident set of this process, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
