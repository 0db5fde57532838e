"""Time and memory of the input pipeline for a thousand to a million files.

    python benchmarks/input_growth.py --files 1000 10000 100000 1000000

Each size runs in a process of its own: a list file that names the same few photos again and again
is listed, one epoch's order is drawn, batches are loaded with worker crops. With ``--shards`` the
photos lie in WebDataset shards of a thousand members, read in the order of the shards and in
random order. Files are in the disk cache: what is measured is the program, not the disk.
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

    from dino_infer.listing import list_images
    from dino_train.crops import CropSpec
    from dino_train.data import build_loader
    from dino_train.sampler import StepSampler, epoch_order

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


def print_shards(folder: Path, *, shards: int = 4, members: int = 1000) -> None:
    """Megabytes per second of reading all members, in order and in random order."""
    import numpy as np

    from dino_infer.listing import list_images

    photos = [(folder / name).read_bytes() for name in make_photos(folder)]
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:04}.tar", "w") as tar:
            for member in range(members):
                data = photos[member % len(photos)]
                info = tarfile.TarInfo(f"{member:06}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    images = list_images([folder / f"{shard:04}.tar" for shard in range(shards)])
    orders: dict[str, Any] = {
        "in order": range(len(images)),
        "random": np.random.default_rng(0).permutation(len(images)).tolist(),
    }
    for name, order in orders.items():
        start = time.perf_counter()
        total = sum(len(images.read(i)) for i in order)
        seconds = time.perf_counter() - start
        print(
            f"{name:10}{total / 2**20 / seconds:10.0f} MB/s{len(images) / seconds:12.0f} images/s"
        )


def resident_mb() -> float:
    """The resident set of this process, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
