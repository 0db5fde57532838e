"""All decoded images of a listing in the memory of the device: later epochs touch no file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, Int64
from torch.utils.data import Dataset

from dino_infer.embedding.decoding import Loader
from dino_infer.errors import TrainingError
from dino_infer.images.read import ImageFailure
from dino_infer.sources.image_list import ImageList
from dino_train.crops.memory import PackedImages
from dino_train.crops.on_device import DeviceBatch
from dino_train.crops.parameters import CropParams, draw_batch
from dino_train.crops.spec import CropSpec
from dino_train.data.dataset import Batch, CropDataset
from dino_train.data.loader import start_worker, unchanged
from dino_train.data.sampler import StepSampler

_FILL_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class DeviceCache:
    """Decoded images on a device; made by ``fill_cache``."""

    images: PackedImages
    full_sizes: Int32[np.ndarray, "batch 2"]
    """Height and width of each picture before it was scaled."""
    shown: Int64[np.ndarray, " batch"]
    """The image that each place of the listing shows: itself, or the next readable one."""
    failures: tuple[ImageFailure, ...]
    """Images that could not be read."""


def fill_cache(
    images: ImageList, spec: CropSpec, *, capacity_bytes: int, device: torch.device, workers: int
) -> DeviceCache:
    """Decode every image of a listing once and keep it on the device.

    ``spec`` decides how small large images may be kept. The room grows if it was too little.

    Raises:
        TrainingError: None of the images can be read.
    """
    room = torch.empty(capacity_bytes, dtype=torch.uint8, device=device)
    count, used = len(images), 0
    starts, shown = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    sizes, full_sizes = np.ones((count, 2), dtype=np.int32), np.ones((count, 2), dtype=np.int32)
    failures: dict[str, ImageFailure] = {}
    loader = Loader(
        CropDataset(images, spec, executor="device", seed=0, any_epoch=True),
        batch_sampler=_in_order(count),
        collate_fn=unchanged,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
    asked = 0
    for batch in loader:
        if not isinstance(batch.payload, DeviceBatch):
            raise TrainingError(f"none of the images can be read, the first: {batch.failures[0]!r}")
        failures |= {failure.path: failure for failure in batch.failures}
        packed, indices = batch.payload.images, batch.indices.numpy()
        end = used + len(packed.pixels)
        if end > len(room):
            room = torch.cat([room[:used], room.new_empty(max(end, len(room) * 5 // 4) - used)])
        room[used:end].copy_(packed.pixels, non_blocking=True)
        # An image that stands in for others is kept more than once; the last copy counts.
        starts[indices], sizes[indices] = packed.starts + used, packed.sizes
        assert batch.payload.full_sizes is not None
        full_sizes[indices] = batch.payload.full_sizes
        shown[asked : asked + len(indices)] = indices
        asked, used = asked + len(indices), end
    return DeviceCache(
        images=PackedImages(pixels=room[:used], starts=starts, sizes=sizes),
        full_sizes=full_sizes,
        shown=shown,
        failures=tuple(failures.values()),
    )


def cached_batches(
    cache: DeviceCache, spec: CropSpec, *, sampler: StepSampler, workers: int
) -> Iterator[Batch]:
    """The batches that ``build_loader`` gives, from the cache; workers only draw parameters."""
    drawing = Loader(
        _ParamsDataset(cache.shown, cache.full_sizes, cache.images.sizes, spec, sampler.seed),
        batch_sampler=sampler,
        collate_fn=unchanged,
        num_workers=min(workers, 2),
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
    failures = cache.failures
    for indices, params in drawing:
        images = cache.images.select(indices)
        yield Batch(
            payload=DeviceBatch(images=images, params=params),
            spec=spec,
            indices=torch.from_numpy(indices),
            failures=failures,
        )
        failures = ()  # once is enough


class _ParamsDataset(Dataset[tuple[Int64[np.ndarray, " batch"], CropParams]]):
    """Images shown and the parameters of their crops, without the images."""

    def __init__(
        self,
        shown: Int64[np.ndarray, " images"],
        full_sizes: Int32[np.ndarray, "images 2"],
        kept_sizes: Int32[np.ndarray, "images 2"],
        spec: CropSpec,
        seed: int,
    ) -> None:
        self._shown = shown
        self._full_sizes = full_sizes
        self._kept_sizes = kept_sizes
        self._spec = spec
        self._seed = seed

    def __len__(self) -> int:
        return len(self._shown)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Int64[np.ndarray, " 1"], CropParams]:
        return self.__getitems__([key])

    def __getitems__(
        self, keys: Sequence[tuple[int, int]]
    ) -> tuple[Int64[np.ndarray, " batch"], CropParams]:
        shown = self._shown[[asked for _, asked in keys]]
        sizes, kept = self._full_sizes[shown], self._kept_sizes[shown]
        own = [(epoch, int(index)) for (epoch, _), index in zip(keys, shown, strict=True)]
        params = draw_batch(self._spec, seed=self._seed, keys=own, sizes=sizes)
        for row in np.flatnonzero((sizes != kept).any(axis=1)).tolist():
            from_size, to_size = tuple(sizes[row].tolist()), tuple(kept[row].tolist())
            params.replace_row(row, params[row].scaled(from_size=from_size, to_size=to_size))
        return shown, params


def _in_order(count: int) -> list[list[tuple[int, int]]]:
    """All images once, as the batches that fill the cache."""
    starts = range(0, count, _FILL_BATCH)
    return [[(0, i) for i in range(start, min(start + _FILL_BATCH, count))] for start in starts]
