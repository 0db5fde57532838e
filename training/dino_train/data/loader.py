"""Loading of a list of images as crops on the device: workers, batches, prefetching."""

import functools
import gc
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.utils.data import DataLoader

from dino_infer.embedding.decoding import Loader
from dino_infer.errors import TrainingError
from dino_infer.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dino_infer.sources.image_list import ImageList
from dino_train.crops.colour import normalize
from dino_train.crops.in_workers import prepare_executor
from dino_train.crops.spec import CropSpec
from dino_train.data.choices import Decoder, Executor
from dino_train.data.dataset import Batch, CropDataset
from dino_train.data.ram_cache import RamCache
from dino_train.data.sampler import StepSampler

StartMethod = Literal["fork", "spawn", "forkserver"]
_T = TypeVar("_T")


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


def build_loader(
    images: ImageList,
    spec: CropSpec,
    *,
    executor: Executor,
    sampler: StepSampler,
    workers: int,
    prefetch: int = 2,
    pin_memory: bool = False,
    cache: RamCache | None = None,
    decoder: Decoder = "cpu",
    start_method: StartMethod | None = None,
) -> DataLoader[Batch]:
    """Batches in the order of the sampler, read and decoded in worker processes.

    What a batch holds does not depend on the workers. The loader draws no global random number.

    Args:
        images: The listing.
        spec: Settings of the crops.
        executor: Place where crops are made.
        sampler: Order of the images; its seed also decides the crops.
        workers: Processes that read; 0 reads in this one.
        prefetch: Batches that each worker prepares ahead.
        pin_memory: Put batches where a GPU can copy them from without waiting.
        cache: Store of decoded images; None decodes them in every epoch.
        decoder: Decoder of plain JPEGs.
        start_method: Method of starting worker processes; None is the platform's way.
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers!r}")
    if executor == "worker":
        prepare_executor()
    return Loader(
        CropDataset(
            images,
            spec,
            executor=executor,
            seed=sampler.seed,
            cache=cache,
            decoder=decoder,
            order=sampler.order,
        ),
        batch_sampler=sampler,
        collate_fn=unchanged,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        multiprocessing_context=start_method if workers else None,
        generator=torch.Generator(),
    )


def device_batches(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Copy each batch to the device; a GPU copies it while it still computes the step before.

    The copy runs on a stream of its own, and what follows on the current stream waits for it, not
    the host: the sooner a batch is asked for, the more of its copy is hidden.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copying):
            copied = batch.to(device)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for tensor in copied.tensors():
            tensor.record_stream(computing)  # else its memory could be reused too early
        yield copied


def make_crops(batch: Batch, device: torch.device) -> Crops:
    """Finish the crops of a batch on the device.

    Raises:
        TrainingError: The batch is empty because no image could be read.
    """
    batch = batch.to(device)
    if batch.payload is None:
        raise TrainingError(f"none of the images can be read, the first: {batch.failures[0]!r}")
    global_crops, local_crops = batch.payload.crops(batch.spec)
    finish = functools.partial(normalize, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Crops(
        global_crops=finish(global_crops),
        local_crops=None if local_crops is None else finish(local_crops),
    )


def start_worker(worker: int) -> None:
    """Make a worker process leave signals to the main one, and threads to the other workers.

    What it inherited stays alone, too: garbage of the main process may be ends of threads and locks
    that are not here, and to collect it can hang or crash.
    """
    gc.freeze()
    # Both signals reach the whole process group; the main process saves, then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def unchanged(batch: _T) -> _T:
    """Return a batch as it is: collation for datasets that make whole batches."""
    return batch
