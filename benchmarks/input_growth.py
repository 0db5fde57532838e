"""Time and memory of the input pipeline for a thousand to a million files.

    python benchmarks/input_growth.py --files 1000 10000 100000 1000000

Each size runs in a process of its own: a list file that names the same few photos again and again
is listed, one epoch's order is drawn, batches are loaded with worker crops. Files are in the disk
cache: what is measured is the program, not the disk. With ``--shards`` it is the disk: WebDataset
shards that are not in the cache are read in each order of training, with and without ReadAhead.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")
BATCH_SIZE = 16
HEADINGS = (
    "list s",
    "first batch s",
    "epoch order s",
    "order MB",
    "rank 0 of 8 s",
    "images/s",
    "growth MB",
)


def main(arguments: list[str] | None = None) -> None:
    """Print a table with one row a size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--shards", action="store_true", help="time reading shards instead")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.shards:
            print_shards(Path(folder))
            return
        names = make_photos(Path(folder))
        print(f"{'files':>10}" + "".join(f"{heading:>15}" for heading in HEADINGS))
        for files in options.files:
            listing = Path(folder) / "list.txt"
            listing.write_text("".join(f"{names[i % len(names)]}\n" for i in range(files)))
            extra = ["--workers", str(options.workers), "--batches", str(options.batches)]
            command = [sys.executable, __file__, "--measure", str(listing), *extra]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(result.stdout)
            print(f"{files:10,}" + "".join(f"{row[name]:15.3f}" for name in HEADINGS), flush=True)


def make_photos(folder: Path, *, copies: int = 16) -> list[str]:
    """JPEGs of 500x375 pixels; their names."""
    from PIL import Image
    from skimage import data

    names = [f"{name}_{copy:02}.jpg" for name in PHOTOS for copy in range(copies)]
    for name in names:
        picture = Image.fromarray(getattr(data, name.split("_")[0])()).resize((500, 375))
        picture.save(folder / name, quality=90)
    return names


def measured(options: argparse.Namespace) -> dict[str, float]:
    """List, order and load in this process."""
    import torch

    from dino_infer.sources.image_list import list_images
    from dino_train.crops.spec import CropSpec
    from dino_train.data.loader import build_loader
    from dino_train.data.sampler import StepSampler, epoch_order

    torch.set_num_threads(1)
    before = resident_mb()
    start = time.perf_counter()
    images = list_images(options.measure)
    row = {"list s": time.perf_counter() - start}

    def sampler(world_size: int) -> StepSampler:
        steps = len(images) // (BATCH_SIZE * world_size)
        return StepSampler(
            len(images),
            batch_size_per_process=BATCH_SIZE,
            seed=0,
            steps_per_epoch=steps,
            start_step=0,
            total_steps=max(steps, options.batches * 2),
            world_size=world_size,
        )

    start = time.perf_counter()
    order = epoch_order(len(images), seed=0, epoch=0)
    row |= {"epoch order s": time.perf_counter() - start, "order MB": order.nbytes / 2**20}
    start = time.perf_counter()
    for _ in zip(range(len(images) // (BATCH_SIZE * 8)), sampler(8), strict=False):
        pass
    row["rank 0 of 8 s"] = time.perf_counter() - start
    start = time.perf_counter()
    loader = build_loader(
        images, CropSpec(), executor="worker", sampler=sampler(1), workers=options.workers
    )
    batches = iter(loader)
    next(batches)
    row["first batch s"] = time.perf_counter() - start
    for _ in range(options.workers * 2):
        next(batches)
    start = time.perf_counter()
    for _ in range(options.batches):
        next(batches)
    row["images/s"] = options.batches * BATCH_SIZE / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row | {"growth MB": peak - before}


def print_shards(folder: Path, *, shards: int = 8, members: int = 2000, rounds: int = 3) -> None:
    """Megabytes a second and requests to the disk while one process reads an epoch."""
    import numpy as np

    from dino_infer.sources.image_list import list_images
    from dino_train.data.choices import Order

    rng = np.random.default_rng(0)
    paths = [folder / f"{shard:04}.tar" for shard in range(shards)]
    for path in paths:
        with tarfile.open(path, "w") as tar:
            for member in range(members):
                info = tarfile.TarInfo(f"{member:06}.jpg")
                info.size = int(rng.integers(40_000, 180_000))
                tar.addfile(info, io.BytesIO(rng.bytes(info.size)))
    images = list_images(paths)
    print(f"{'order':14}{'read ahead':>12}{'MB/s':>8}{'requests/image':>16}{'kB/request':>12}")
    ways: list[tuple[Order, bool]] = [
        (order, ahead) for order in ("random", "quasi-random") for ahead in (False, True)
    ]
    for seed in range(rounds):
        for order, ahead in ways:
            forget(paths)
            before = disk_reads(folder)
            start = time.perf_counter()
            read = read_epoch(images, order=order, ahead=ahead, seed=seed)
            seconds = time.perf_counter() - start
            requests, read_kb = (
                now - then for now, then in zip(disk_reads(folder), before, strict=True)
            )
            print(
                f"{order:14}{'yes' if ahead else 'no':>12}{read / 2**20 / seconds:8.0f}"
                f"{requests / len(images):16.2f}{read_kb / max(1, requests):12.0f}",
                flush=True,
            )


def read_epoch(images: Any, *, order: Any, ahead: bool, seed: int) -> int:
    """Read every image once in batches of 64; the bytes."""
    from dino_train.data.read_ahead import ReadAhead
    from dino_train.data.sampler import StepSampler

    steps = len(images) // 64
    batches = StepSampler(
        len(images),
        batch_size_per_process=64,
        seed=seed,
        steps_per_epoch=steps,
        start_step=0,
        total_steps=steps,
        order=order,
    )
    read_ahead = ReadAhead(images, order)
    read = 0
    for keys in batches:
        if ahead:
            read_ahead.expect(keys)
        read += sum(len(images.read(image)) for _, image in keys)
    return read


def forget(paths: list[Path]) -> None:
    """Take files out of the cache of the system (Linux)."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_reads(folder: Path) -> tuple[int, float]:
    """Requests and kB that were read from the disk of a folder since it started (Linux)."""
    device = folder.stat().st_dev
    wanted = [str(os.major(device)), str(os.minor(device))]
    for line in Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if fields[:2] == wanted:
            return int(fields[3]), int(fields[5]) * 512 / 1024
    return 0, 0.0


def resident_mb() -> float:
    """The resident set of this process, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
