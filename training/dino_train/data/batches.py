"""The batches of a run on the device, from files or from a cache of decoded images."""

import logging
from collections.abc import Iterator

import torch

from dino_infer.sources.image_list import ImageList
from dino_train.crops.spec import CropSpec
from dino_train.data.choices import Cache, Decoder, Executor
from dino_train.data.dataset import Batch
from dino_train.data.decode_sizes import decoded_amount
from dino_train.data.gpu_cache import cached_batches, fill_cache
from dino_train.data.loader import build_loader, device_batches
from dino_train.data.ram_cache import CachePlan, RamCache, free_ram_bytes, plan_cache
from dino_train.data.sampler import StepSampler

_AUTO_GPU_SHARE = 0.25  # of what is free before training takes its part

logger = logging.getLogger(__name__)


def batches_on_device(
    images: ImageList,
    spec: CropSpec,
    *,
    sampler: StepSampler,
    device: torch.device,
    executor: Executor,
    workers: int,
    cache: Cache = "auto",
    decoder: Decoder = "cpu",
    processes: int = 1,
) -> Iterator[Batch]:
    """Batches in the order of the sampler, ready for ``make_crops``; ``processes`` share memory.

    Raises:
        TrainingError: A cache on the GPU was asked for and the images do not fit.
    """
    plan = _plan(
        images, spec, device=device, executor=executor, cache=cache, decoder=decoder,
        processes=processes, lasting=sampler.epochs_left > 1,
    )  # fmt: skip
    if plan.place == "gpu":
        kept = fill_cache(
            images, spec, capacity_bytes=plan.capacity_bytes, device=device, workers=workers
        )
        return device_batches(cached_batches(kept, spec, sampler=sampler, workers=workers), device)
    in_memory = None
    if plan.place == "ram":
        in_memory = RamCache(len(images), capacity_bytes=plan.capacity_bytes)
    loader = build_loader(
        images,
        spec,
        executor=executor,
        sampler=sampler,
        workers=workers,
        pin_memory=device.type == "cuda",
        cache=in_memory,
        decoder=decoder,
    )
    return device_batches(loader, device)


def _plan(
    images: ImageList,
    spec: CropSpec,
    *,
    device: torch.device,
    executor: Executor,
    cache: Cache,
    decoder: Decoder,
    processes: int,
    lasting: bool,
) -> CachePlan:
    """Choose the place of decoded images; log it in one line where it matters."""
    if cache == "none" or (cache == "auto" and (decoder == "gpu" or not lasting)):
        return CachePlan(place="none", capacity_bytes=0, why="decoded images are not kept")
    needed_bytes, scaled = decoded_amount(images, spec)
    if not needed_bytes:
        plan = CachePlan(place="none", capacity_bytes=0, why="no image could be looked at")
    elif cache == "auto" and scaled:
        why = "decoded images are not kept: they would be kept smaller than their files"
        plan = CachePlan(place="none", capacity_bytes=0, why=f"{why}; `cache='ram'` does so")
    else:
        free_gpu = None
        if device.type == "cuda" and executor == "device":
            free_gpu = torch.cuda.mem_get_info(device)[0]
            free_gpu = int(_AUTO_GPU_SHARE * free_gpu) if cache == "auto" else free_gpu
        plan = plan_cache(
            cache,
            needed_bytes=needed_bytes,
            free_ram_bytes=free_ram_bytes(processes=processes),
            free_gpu_bytes=free_gpu,
        )
    logger.info("cache: %s", plan.why)
    return plan
