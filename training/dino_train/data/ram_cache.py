"""Decoded images kept in memory that all worker processes share, and where they fit."""

import multiprocessing.synchronize
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from dino_infer.errors import TrainingError
from dino_train.crops.memory import shared_bytes
from dino_train.data.choices import Cache, CachePlace

_AUTO_SHARE, _MOST_SHARE = 0.5, 0.8  # of the free memory: what is taken unasked, and at all
_SHARED_FOLDER, _MEMORY_TABLE = Path("/dev/shm"), Path("/proc/meminfo")
_GIB = 2**30

_START, _HEIGHT, _WIDTH, _FULL_HEIGHT, _FULL_WIDTH = range(5)
_ABSENT, _BEING_WRITTEN = -1, -2  # in the place of a start


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """Place of decoded images, and the reason for it."""

    place: CachePlace
    capacity_bytes: int
    why: str
    """Log message: one line with the sizes."""


def plan_cache(
    asked: Cache,
    *,
    needed_bytes: int,
    free_ram_bytes: int,
    free_gpu_bytes: int | None,
) -> CachePlan:
    """Decide where decoded images are kept.

    "auto" takes the GPU's memory if the images fill no more than half of what is free there, else
    the computer's by the same rule, else none. "ram" keeps as many images as fit.

    Args:
        asked: Place that the user asked for.
        needed_bytes: Bytes of all images, decoded.
        free_ram_bytes: Free memory of the computer, of this process's share.
        free_gpu_bytes: Free memory of the GPU once training runs; None where crops are not made
            on a GPU.

    Raises:
        TrainingError: "gpu" was asked for and the images do not fit.
    """
    in_gib = f"{needed_bytes / _GIB:.1f} GiB of decoded images"
    gpu, ram = free_gpu_bytes or 0, free_ram_bytes
    if asked == "gpu" and needed_bytes > _MOST_SHARE * gpu:
        raise TrainingError(
            f"expected at most {_MOST_SHARE * gpu / _GIB:.1f} GiB for the cache on a GPU, got "
            f"{in_gib}; pass `cache='ram'` or `cache='none'`"
        )
    if asked == "gpu" or (asked == "auto" and 0 < needed_bytes <= _AUTO_SHARE * gpu):
        why = f"{in_gib} in GPU memory, {gpu / _GIB:.1f} GiB free"
        return CachePlan(place="gpu", capacity_bytes=needed_bytes, why=why)
    if asked == "ram" or (asked == "auto" and needed_bytes <= _AUTO_SHARE * ram):
        capacity = min(needed_bytes, int(_MOST_SHARE * ram))
        share = "all" if capacity == needed_bytes else f"{capacity / needed_bytes:.0%}"
        why = f"{share} of {in_gib} in memory, {ram / _GIB:.1f} GiB free"
        return CachePlan(place="ram", capacity_bytes=capacity, why=why)
    because = "as asked" if asked == "none" else f"only {ram / _GIB:.1f} GiB of memory free"
    return CachePlan(place="none", capacity_bytes=0, why=f"{in_gib} are not kept: {because}")


def free_ram_bytes(*, processes: int = 1) -> int:
    """Memory that one of several training processes of this computer may take for its cache.

    Shared memory is what counts: containers often give it much less than the computer has. Systems
    that do not tell have none.
    """
    if not (_SHARED_FOLDER.exists() and _MEMORY_TABLE.exists()):
        return 0
    shared = os.statvfs(_SHARED_FOLDER)
    free = shared.f_bavail * shared.f_frsize
    lines = _MEMORY_TABLE.read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) << 10 for line in lines if "MemAvailable" in line)
    return min(free, available) // processes


@dataclass(frozen=True)
class CachedImage:
    """A decoded image, perhaps smaller than its file; see ``EncodedImage`` for the methods."""

    size: tuple[int, int]
    """Height and width of the file's picture."""
    kept: UInt8[np.ndarray, "height width 3"]

    def decoded_size(self, min_scale_size: tuple[int, int] | None) -> tuple[int, int]:
        """Height and width of what ``pixels`` returns."""
        return self.kept.shape[0], self.kept.shape[1]

    def pixels(
        self,
        min_scale_size: tuple[int, int] | None = None,
        *,
        out: UInt8[np.ndarray, " bytes"] | None = None,
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The image, copied to ``out`` if that is given."""
        if out is None:
            return self.kept
        placed = out.reshape(self.kept.shape)
        placed[:] = self.kept
        return placed


class RamCache:
    """Decoded images of a listing, as many as fit; those left out are decoded again each time.

    The first process that decodes an image keeps it for all. Memory is taken up only as images
    come in, and is given back with the last process.

    Args:
        num_images: Images in the listing.
        capacity_bytes: Room for pixels.
        start_method: Method of starting the worker processes; None is the platform's way.
    """

    def __init__(
        self, num_images: int, *, capacity_bytes: int, start_method: str | None = None
    ) -> None:
        self._pixels = shared_bytes(capacity_bytes)
        self._table = shared_bytes(8 * 5 * num_images).view(torch.int64).view(num_images, 5)
        self._table.fill_(_ABSENT)
        self._used = shared_bytes(8).view(torch.int64).zero_()
        context = multiprocessing.get_context(start_method)
        self._lock: multiprocessing.synchronize.Lock = context.Lock()

    @property
    def count(self) -> int:
        """Images kept so far."""
        return int((self._table[:, _START] >= 0).sum())

    def image(self, index: int) -> CachedImage | None:
        """An image, if it is kept."""
        with self._lock:  # also orders the memory of the processes
            row = self._table[index].tolist()
        if row[_START] < 0:
            return None
        start, height, width = row[_START], row[_HEIGHT], row[_WIDTH]
        pixels = self._pixels[start : start + 3 * height * width].view(height, width, 3)
        return CachedImage((row[_FULL_HEIGHT], row[_FULL_WIDTH]), pixels.numpy())

    def keep(
        self, index: int, image: UInt8[np.ndarray, "height width 3"], *, full_size: tuple[int, int]
    ) -> None:
        """Keep a decoded image if it is new and there is room; a full cache changes nothing."""
        with self._lock:
            start = int(self._used)
            is_new = int(self._table[index, _START]) == _ABSENT
            if not is_new or start + image.size > len(self._pixels):
                return
            self._used += image.size
            self._table[index, _START] = _BEING_WRITTEN
        self._pixels[start : start + image.size].numpy()[:] = image.reshape(-1)
        with self._lock:
            entry = (start, image.shape[0], image.shape[1], *full_size)
            self._table[index] = torch.tensor(entry)
