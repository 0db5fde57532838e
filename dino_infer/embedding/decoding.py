"""Lists of images as batches of pixels, read and decoded wherever there is time."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dino_infer.cores import cores
from dino_infer.errors import ImageError
from dino_infer.images.encoded import DEFAULT_MAX_PIXELS
from dino_infer.images.jpegs import is_jpeg
from dino_infer.images.preprocess import Preprocess
from dino_infer.images.read import MAX_FILE_BYTES, ImageFailure, image_size, read_image
from dino_infer.sources.image_list import ImageList

_T = TypeVar("_T")

MAX_AUTO_WORKERS = 16
FEW_IMAGES = 64  # below this, starting processes takes longer than decoding


class ImageFile(NamedTuple):
    """Entry of the table of rows about an image that could be read."""

    height: int
    """Height of the upright image in pixels, as the file has it."""
    width: int
    sha256: str
    """Hex digest of the file."""
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class DecodedBatch:
    """Consecutive images of a list: those that could be read, and why the others could not."""

    # No tuple: a DataLoader takes those apart and turns ranges and arrays into something else.

    places: range
    """Positions of the batch's images in the list."""
    indices: Int64[np.ndarray, " rows"]
    """Positions in the list of the images that could be read."""
    stacks: list[tuple[Int64[np.ndarray, " _stack"], UInt8[Tensor, "_stack 3 _height _width"]]]
    """Pixels stacked by shape, each stack with its positions in ``indices``."""
    files: list[ImageFile]
    failures: dict[int, ImageFailure]
    """Failures by position in the list."""

    def pin_memory(self) -> "DecodedBatch":
        """The batch with its pixels where a GPU can fetch them; asked for by the DataLoader."""
        pinned = [(positions, pixels.pin_memory()) for positions, pixels in self.stacks]
        return dataclasses.replace(self, stacks=pinned)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Settings by which image files become pixels."""

    preprocess: Preprocess
    max_pixels: int = DEFAULT_MAX_PIXELS
    """Largest number of pixels; larger images fail, judged by their header."""
    max_file_bytes: int = MAX_FILE_BYTES
    """Largest size of a file; larger files fail unread."""

    def batch(self, images: ImageList, places: range) -> DecodedBatch:
        """Read and decode some images of a list; those that fail are reported in the batch."""
        kept, pixels, described, failures = [], [], [], {}
        for place in places:
            try:
                tensor, file = self._image(images, place)
            except ImageError as error:
                failures[place] = ImageFailure.of(error)
            else:
                kept.append(place)
                pixels.append(tensor)
                described.append(file)
        indices = np.array(kept, dtype=np.int64)
        return DecodedBatch(places, indices, list(stacks(pixels)), described, failures)

    def _image(self, images: ImageList, place: int) -> tuple[Tensor, ImageFile]:
        name = images.name(place)
        data = images.read(place, max_file_bytes=self.max_file_bytes)
        least = self.preprocess.least_decoded
        image = read_image(data, path=name, max_pixels=self.max_pixels, min_scale_size=least)
        height, width = image.shape[:2]
        if least is not None and is_jpeg(data):
            height, width = image_size(
                data, name, max_pixels=self.max_pixels
            )  # it may have been decoded smaller
        _, modified_ns = images.stat(place)
        digest = hashlib.sha256(data).hexdigest()
        file = ImageFile(height, width, digest, len(data), modified_ns)
        return self.preprocess.pixels(image, path=name), file


def decoded_in_processes(
    decoding: Decoding,
    images: ImageList,
    batches: Sequence[range],
    *,
    workers: int | None = None,
    pin_memory: bool = False,
) -> Iterable[DecodedBatch]:
    """Batches of a list, in order, decoded in worker processes ahead of their use.

    Args:
        decoding: Files to pixels.
        images: Images to read.
        batches: Places in the list, batch by batch.
        workers: Processes; None chooses by the number of images and cores.
        pin_memory: Put pixels where a GPU can fetch them.
    """
    if workers is None:
        few = sum(map(len, batches)) < FEW_IMAGES
        workers = 0 if few else min(cores(), MAX_AUTO_WORKERS)
    return Loader(
        _Batches(decoding, images, batches),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        # Its own, so that embedding during training leaves the run's random numbers alone.
        generator=torch.Generator(),
    )


class Loader(DataLoader[_T]):
    """A DataLoader that takes the number of workers as it is told.

    PyTorch warns where it exceeds the cores; a default never does, and who gives one has chosen.
    """

    def check_worker_number_rationality(self) -> None:
        """Give no warning."""


class _Batches(Dataset[DecodedBatch]):
    def __init__(self, decoding: Decoding, images: ImageList, batches: Sequence[range]) -> None:
        self._decoding, self._images, self._batches = decoding, images, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> DecodedBatch:
        return self._decoding.batch(self._images, self._batches[index])


def stacks(
    pixels: Sequence[Tensor],
) -> Iterator[tuple[Int64[np.ndarray, " stack"], Tensor]]:
    """Tensors of equal shape as one, with their positions in the sequence."""
    by_shape: dict[torch.Size, list[int]] = {}
    for position, tensor in enumerate(pixels):
        by_shape.setdefault(tensor.shape, []).append(position)
    for positions in by_shape.values():
        yield np.array(positions), torch.stack([pixels[position] for position in positions])
