"""From a list of images to crops on the device: read, decode, crop, batch."""

import functools
import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dino_infer.errors import ImageError, TrainingError
from dino_infer.images import ImageFailure, image_size, read_image
from dino_infer.listing import ImageList
from dino_infer.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dino_train.colour import normalize
from dino_train.crops import CropParams, CropSpec, draw_crops
from dino_train.device_crops import DeviceBatch, make_device_crops, pad_images
from dino_train.failures import FailureLog
from dino_train.sampler import StepSampler
from dino_train.worker_crops import WorkerCrops, make_worker_crops, stack_crops

__all__ = [
    "Batch",
    "CropDataset",
    "Crops",
    "Executor",
    "FailureLog",
    "Sample",
    "StepSampler",
    "build_loader",
    "collate",
    "make_crops",
    "sufficient_size",
]

Executor = Literal["worker", "device"]

# A JPEG decoded at 1/2 is a little softer than one that is shrunk afterwards. With at least twice
# the pixels that a crop needs, little of that is left in it.
_DECODE_OVERSAMPLING = 2.0


@dataclass(frozen=True)
class Sample:
    """One image as a worker leaves it."""

    index: int
    """The image shown, which is not the one asked for when that could not be read."""
    made: WorkerCrops | tuple[UInt8[np.ndarray, "height width 3"], CropParams] | None
    """Crops, or a decoded image and its parameters; None when no image at all could be read."""
    failures: tuple[ImageFailure, ...]
    """Images that were passed over on the way to this one."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images on their way to the device."""

    payload: WorkerCrops | DeviceBatch | None
    """None when no image could be read."""
    spec: CropSpec
    indices: Int64[Tensor, " batch"]
    """Number in the listing of the image that each row shows."""
    failures: tuple[ImageFailure, ...]
    """Images that could not be read; another took the place of each."""

    def pin_memory(self) -> "Batch":
        """The same batch where a GPU can copy it from without waiting."""
        pinned = None if self.payload is None else self.payload.pin_memory()
        return Batch(payload=pinned, spec=self.spec, indices=self.indices, failures=self.failures)


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Crops of a batch, normalised with ImageNet's mean and standard deviation."""

    global_crops: Float32[Tensor, "2 batch 3 global_size global_size"]
    local_crops: Float32[Tensor, "local_crops batch 3 local_size local_size"] | None

    def groups(self) -> tuple[Float32[Tensor, "_crops batch 3 _size _size"], ...]:
        """One tensor a crop size, global crops first."""
        if self.local_crops is None:
            return (self.global_crops,)
        return self.global_crops, self.local_crops


class CropDataset(Dataset[Sample]):
    """Reads, decodes and, for the worker executor, crops one image.

    An item is asked for by (epoch, image). If the image cannot be read, the next readable one of
    the listing takes its place, with the crops that it would have had itself.
    """

    def __init__(self, images: ImageList, spec: CropSpec, *, executor: Executor, seed: int) -> None:
        self._images = images
        self._spec = spec
        self._executor = executor
        self._seed = seed
        self._unreadable: dict[int, ImageFailure] = {}  # what this process has already tried

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, asked = key
        passed_over: list[ImageFailure] = []
        for index in (*range(asked, len(self)), *range(asked)):
            if index not in self._unreadable:
                try:
                    return Sample(index, self._made(epoch, index), tuple(passed_over))
                except ImageError as error:
                    self._unreadable[index] = ImageFailure(
                        self._images.location(index), error.kind, error.reason
                    )
            passed_over.append(self._unreadable[index])
        return Sample(asked, None, tuple(passed_over))

    def _made(
        self, epoch: int, index: int
    ) -> WorkerCrops | tuple[UInt8[np.ndarray, "height width 3"], CropParams]:
        data, name = self._images.read(index), self._images.name(index)
        height, width = image_size(data, name)
        params = draw_crops(
            self._spec, seed=self._seed, epoch=epoch, index=index, height=height, width=width
        )
        needed = sufficient_size(params, self._spec, height=height, width=width)
        image = read_image(data, path=name, min_scale_size=needed)
        params = params.scaled(from_size=(height, width), to_size=image.shape[:2])
        if self._executor == "worker":
            return make_worker_crops(image, params, self._spec)
        return image, params


def build_loader(
    images: ImageList,
    spec: CropSpec,
    *,
    executor: Executor,
    sampler: StepSampler,
    workers: int,
    prefetch: int = 2,
    pin_memory: bool = False,
    start_method: Literal["fork", "spawn", "forkserver"] | None = None,
) -> DataLoader[Sample]:
    """Batches in the order of the sampler, read and decoded in worker processes.

    What a batch holds does not depend on the workers. The loader draws no global random number.

    Args:
        images: The listing.
        spec: What to crop.
        executor: Who crops: the workers, or ``make_crops`` on the device.
        sampler: Which images; its seed also decides the crops.
        workers: Processes that read; 0 reads in this one.
        prefetch: Batches that each worker prepares ahead.
        pin_memory: Put batches where a GPU can copy them from without waiting.
        start_method: How worker processes start; None is the platform's way.
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers!r}")
    return DataLoader(
        CropDataset(images, spec, executor=executor, seed=sampler.seed),
        batch_sampler=sampler,
        collate_fn=functools.partial(collate, spec=spec),
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator(),
    )


def collate(samples: Sequence[Sample], *, spec: CropSpec) -> Batch:
    """Samples as one batch."""
    crops = [sample.made for sample in samples if isinstance(sample.made, WorkerCrops)]
    decoded = [sample.made for sample in samples if isinstance(sample.made, tuple)]
    payload: WorkerCrops | DeviceBatch | None = None
    if len(crops) == len(samples):
        payload = stack_crops(crops)
    elif len(decoded) == len(samples):
        payload = pad_images([image for image, _ in decoded], [params for _, params in decoded])
    return Batch(
        payload=payload,
        spec=spec,
        indices=torch.tensor([sample.index for sample in samples]),
        failures=tuple(failure for sample in samples for failure in sample.failures),
    )


def make_crops(batch: Batch, device: torch.device) -> Crops:
    """Finish the crops of a batch on the device.

    Raises:
        TrainingError: The batch is empty because no image could be read.
    """
    if batch.payload is None:
        raise TrainingError(f"none of the images can be read, the first: {batch.failures[0]!r}")
    local_crops: Tensor | None
    if isinstance(batch.payload, DeviceBatch):
        global_crops, local_crops = make_device_crops(batch.payload, batch.spec, device)
    else:
        global_crops, local_crops = batch.payload.global_crops, batch.payload.local_crops
        global_crops = global_crops.to(device, non_blocking=True)
        if local_crops is not None:
            local_crops = local_crops.to(device, non_blocking=True)
    finish = functools.partial(normalize, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Crops(
        global_crops=finish(global_crops),
        local_crops=None if local_crops is None else finish(local_crops),
    )


def sufficient_size(
    params: CropParams, spec: CropSpec, *, height: int, width: int
) -> tuple[int, int] | None:
    """Height and width at which a picture still has pixels enough for all its crops."""
    pixels_per_pixel = np.minimum(params.height, params.width) / spec.sizes()
    spare = float(pixels_per_pixel.min()) / _DECODE_OVERSAMPLING
    if spare < 2:
        return None  # decoders shrink by 2 at least
    return math.ceil(height / spare), math.ceil(width / spare)


def _start_worker(worker: int) -> None:
    # Both signals reach the whole process group; the main process saves, then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
