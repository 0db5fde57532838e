"""Stages of the input, each through the code of the training that runs it."""

import argparse
import statistics
from collections.abc import Callable, Sequence

import torch
from stopwatch import timed_rounds

from dino_infer.images.read import image_size
from dino_infer.sources.image_list import ImageList
from dino_train.crops.in_workers import prepare_executor
from dino_train.crops.spec import CropSpec
from dino_train.data.choices import Executor
from dino_train.data.dataset import Batch, CropDataset
from dino_train.data.loader import make_crops
from dino_train.data.ram_cache import RamCache


class FilesRead:
    """Stands in for a listing: the files are in memory."""

    def __init__(self, images: ImageList, count: int) -> None:
        self._names = [images.name(i) for i in range(count)]
        self._files = [images.read(i) for i in range(count)]

    def __len__(self) -> int:
        return len(self._files)

    def name(self, i: int) -> str:
        """Of image ``i``, for messages."""
        return self._names[i]

    location = name

    def expect(self, indices: Sequence[int]) -> None:
        """Nothing to fetch."""

    def read(self, i: int) -> bytes:
        """The file of image ``i``."""
        return self._files[i]


def print_input(options: argparse.Namespace, images: ImageList, batch: int) -> None:
    """Milliseconds an image of reading, decoding, cropping and copying a batch."""
    parts = input_parts(options, images, batch)
    seconds = timed_rounds(parts, options.device, rounds=options.rounds)
    print(f"\n{f'input, {batch} images: ms an image':44}{'median':>9}{'lowest':>9}{'highest':>9}")
    for name, times in seconds.items():
        ms = [1e3 * one / batch for one in times]
        print(f"{name:44}{statistics.median(ms):9.3f}{min(ms):9.3f}{max(ms):9.3f}", flush=True)


def input_parts(
    options: argparse.Namespace, images: ImageList, batch: int
) -> dict[str, Callable[[], object]]:
    """What happens to a batch between the files and the network, by name.

    The parts of workers run here as they do there, in one thread. Crops are made of images that a
    cache holds, so that decoding does not count.
    """
    spec = CropSpec(
        global_crops_size=options.global_size,
        local_crops_size=options.local_size,
        local_crops_number=options.local_crops,
    )
    device, count = torch.device(options.device), min(batch, len(images))
    keys = [(i // count, i % count) for i in range(batch)]
    read = FilesRead(images, count)
    sizes = [image_size(read.read(i), read.name(i)) for i in range(count)]
    cache = RamCache(count, capacity_bytes=3 * sum(height * width for height, width in sizes))

    def dataset(executor: Executor, cache: RamCache | None = None) -> CropDataset:
        return CropDataset(read, spec, executor=executor, seed=0, cache=cache)  # type: ignore[arg-type]

    def ready(executor: Executor) -> Batch:
        made = dataset(executor).__getitems__(keys)
        return made.pin_memory() if options.device == "cuda" else made

    prepare_executor()
    decoding, cropping = dataset("device"), dataset("worker", cache)
    decoded, cropped = ready("device"), ready("worker")
    decoded_there, cropped_there = decoded.to(device), cropped.to(device)
    return {
        "read": lambda: [images.read(i) for _, i in keys],
        "decode": in_one_thread(lambda: decoding.__getitems__(keys)),
        "crops in workers: crop": in_one_thread(lambda: cropping.__getitems__(keys)),
        "crops in workers: copy to the device": lambda: cropped.to(device),
        "crops in workers: normalise there": lambda: make_crops(cropped_there, device),
        "crops on the device: copy to the device": lambda: decoded.to(device),
        "crops on the device: crop and normalise": lambda: make_crops(decoded_there, device),
    }


def in_one_thread(work: Callable[[], object]) -> Callable[[], object]:
    """The same work, with as many threads as a worker process has."""

    def alone() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            work()
        finally:
            torch.set_num_threads(threads)

    return alone
