"""Masks of a video's objects in all frames, from the mask of the first one and a network."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dino_infer.errors import ImageError
from dino_infer.evaluate.contestants import Network
from dino_infer.evaluate.data.frames import Video
from dino_infer.objects.propagation import patch_labels, pixel_labels, propagate_labels

SIZE, MULTIPLE = 480, 64  # pixels, as the original has them


@dataclass(frozen=True, kw_only=True)
class Following:
    """Settings of the protocol; by default those of the paper."""

    size: int = SIZE
    """Shorter side in pixels of the frames that the network sees."""
    last_frames: int = 7
    """See ``propagate_labels``."""
    neighborhood: int = 12
    """See ``propagate_labels``."""
    top_k: int = 5
    """See ``propagate_labels``."""
    temperature: float = 0.1
    """See ``propagate_labels``."""


PUBLISHED = Following()


def follow_objects(
    network: Network,
    video: Video,
    *,
    following: Following = PUBLISHED,
) -> Iterator[UInt8[np.ndarray, "height width"]]:
    """Masks of every frame after the first, one at a time, from the mask of the first.

    Raises:
        ImageError: A frame cannot be read.
        ValueError: The network is no Vision Transformer, or a setting is out of range.
    """
    patch = network.backbone.patch_size
    sides = input_sides(video.size, size=following.size, patch_size=patch)
    rows, columns = (side // patch for side in sides)
    labels = (0, *video.objects)
    mask = video.mask(0)
    if mask is None:
        raise ValueError(f"{video.name!r} has no mask of its first frame")
    shares = propagate_labels(
        _tokens(network, video, sides, (rows, columns)),
        patch_labels(mask, labels, (rows, columns)),
        last_frames=following.last_frames,
        neighborhood=following.neighborhood,
        top_k=following.top_k,
        temperature=following.temperature,
    )
    return (pixel_labels(one, labels, video.size, patch_size=patch) for one in shares)


def input_sides(shape: tuple[int, int], *, size: int, patch_size: int) -> tuple[int, int]:
    """Height and width that frames are resized to.

    The shorter side is ``size``; the longer keeps the aspect but for being cut to a multiple of 64,
    as in the original. Both are multiples of the patch.

    Raises:
        ValueError: ``size`` does not hold one patch.
    """
    if size < patch_size:
        raise ValueError(f"`size` must be at least one patch of {patch_size} px, got {size}")
    short = size - size % patch_size
    step = MULTIPLE if MULTIPLE % patch_size == 0 and size >= MULTIPLE else patch_size
    long = size * max(shape) // min(shape)
    long = max(long - long % step, short)
    return (long, short) if shape[0] > shape[1] else (short, long)


def _tokens(
    network: Network, video: Video, sides: tuple[int, int], grid: tuple[int, int]
) -> Iterator[Float[Tensor, "rows columns dim"]]:
    """Patch tokens of each frame, embedded a few frames ahead at most."""
    given = network.options.get("batch_size")
    batch_size = given or (1 if network.device.type == "cpu" else 8)  # frames are large
    network = dataclasses.replace(network, options=network.options | {"batch_size": batch_size})
    embedder = network.embedder(feature="patches", size=sides, crop="none")
    for batch in embedder.batches(video.images):
        for place in sorted(batch.failures):
            failure = batch.failures[place]
            raise ImageError(failure.path, failure.kind, failure.reason)
        for row in batch.features:
            yield torch.from_numpy(row).view(*grid, -1).to(network.device)
