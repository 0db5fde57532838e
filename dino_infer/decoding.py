"""Lists of images as batches of tensors, read and decoded in worker processes."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dino_infer import pixel_modes
from dino_infer.errors import ImageError
from dino_infer.images import ImageFailure, read_image
from dino_infer.listing import ImageList
from dino_infer.preprocess import Preprocess

MAX_AUTO_WORKERS = 16
FEW_IMAGES = 64  # below this, starting processes takes longer than decoding


class DecodedBatch(NamedTuple):
    """Consecutive images of a list: those that could be read, and why the others could not."""

    indices: Int64[np.ndarray, " rows"]
    """Places in the list of the images that could be read."""
    stacks: list[tuple[Int64[np.ndarray, " _stack"], Tensor]]
    """Their tensors, equal shapes together, each with its positions in ``indices``."""
    sizes: list[tuple[int, int]]
    """Upright (height, width) of the files' images in pixels."""
    digests: list[str]
    """SHA-256 of the files."""
    failures: list[ImageFailure]


def decoded_batches(
    images: ImageList,
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int | None = None,
    pin_memory: bool = False,
) -> Iterable[DecodedBatch]:
    """All images of a list, in order.

    Args:
        images: What to read.
        preprocess: Image to tensor.
        batch_size: Images in a batch, readable or not.
        workers: Processes that read and decode; None chooses by the number of images and cores.
        pin_memory: Put tensors where a GPU can fetch them.
    """
    if workers is None:
        workers = 0 if len(images) < FEW_IMAGES else min(_cores(), MAX_AUTO_WORKERS)
    return DataLoader(
        _Decoded(images, preprocess),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=_collated,
        pin_memory=pin_memory,
        # Its own, so that embedding during training leaves the run's random numbers alone.
        generator=torch.Generator(),
    )


def rgb_array(picture: np.ndarray | Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """A picture in memory as upright RGB, by the rules for files.

    Args:
        picture: A uint8 array of shape (height, width, 3), or a Pillow image of any mode.

    Raises:
        ValueError: The array is of another shape or type.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(
                "a picture must be uint8 of shape (height, width, 3), "
                f"got {picture.dtype} of shape {picture.shape}"
            )
        return picture
    return np.array(pixel_modes.rgb(ImageOps.exif_transpose(picture)))


class _Outcome(NamedTuple):
    """One image as a worker leaves it; ``pixels`` is None when it failed."""

    place: int
    pixels: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    digest: str = ""
    failure: ImageFailure | None = None


class _Decoded(Dataset[_Outcome]):
    def __init__(self, images: ImageList, preprocess: Preprocess) -> None:
        self._images = images
        self._preprocess = preprocess

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> _Outcome:
        name = self._images.name(index)
        try:
            data = self._images.read(index)
            image = read_image(data, path=name)
            pixels = self._preprocess(image, path=name)
        except ImageError as error:
            return _Outcome(index, failure=ImageFailure.of(error))
        height, width = image.shape[:2]
        return _Outcome(index, pixels, (height, width), hashlib.sha256(data).hexdigest())


def _collated(outcomes: list[_Outcome]) -> DecodedBatch:
    kept = [outcome for outcome in outcomes if outcome.failure is None]
    return DecodedBatch(
        indices=np.array([outcome.place for outcome in kept], dtype=np.int64),
        stacks=list(stacks([outcome.pixels for outcome in kept if outcome.pixels is not None])),
        sizes=[outcome.size for outcome in kept],
        digests=[outcome.digest for outcome in kept],
        failures=[outcome.failure for outcome in outcomes if outcome.failure is not None],
    )


def stacks(
    pixels: Sequence[Tensor],
) -> Iterator[tuple[Int64[np.ndarray, " stack"], Tensor]]:
    """Tensors of equal shape as one, with their positions in the sequence."""
    by_shape: dict[torch.Size, list[int]] = {}
    for position, tensor in enumerate(pixels):
        by_shape.setdefault(tensor.shape, []).append(position)
    for positions in by_shape.values():
        yield np.array(positions), torch.stack([pixels[position] for position in positions])


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
