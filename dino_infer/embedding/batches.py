"""Feature rows of batches of images: decoding, transfer, network and use of the rows overlap."""

import functools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from dino_infer.devices import LateNumbers, cpu_threads, one_thread_each
from dino_infer.embedding.decoding import (
    DecodedBatch,
    Decoding,
    ImageFile,
    decoded_in_processes,
    stacks,
)
from dino_infer.embedding.engines import Engine
from dino_infer.errors import CheckpointError, DinoError
from dino_infer.images.read import ImageFailure
from dino_infer.sources.image_list import ImageList

WHY_NOT_FINITE = "the weights are damaged, or the precision is too low: pass `precision='fp32'`"


class EmbeddedBatch(NamedTuple):
    """Consecutive images of a list with their features."""

    places: range
    """Positions of the batch's images in the list."""
    indices: Int64[np.ndarray, " rows"]
    """Positions in the list of the images that have a row."""
    features: Float[np.ndarray, "rows ..."]
    files: list[ImageFile]
    failures: dict[int, ImageFailure]
    """Failures by position in the list."""


class RowMaker:
    """Makes float32 rows of pixels, and of lists of images batch by batch.

    Args:
        engine: The network.
        decoding: Files to pixels, and pixels to what the network takes.
        batch_size: Images at once, halved for good where the memory of the device does not hold
            so many.
        normalize: Scale each row to length 1.
    """

    def __init__(
        self, engine: Engine, decoding: Decoding, *, batch_size: int, normalize: bool
    ) -> None:
        self._engine, self._decoding, self._preprocess = engine, decoding, decoding.preprocess
        self._batch_size, self._normalize = batch_size, normalize
        self._largest = batch_size  # that fitted into the memory of the device

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of the feature of one image: (dim,), or (patches, dim)."""
        size = self._preprocess.size
        height, width = (size, size) if isinstance(size, int) else size
        blank = torch.zeros(1, 3, height, width, device=self._engine.device)
        return tuple(self.of_images(blank).shape[1:])

    def batches(
        self, images: ImageList, *, start: int, workers: int | None
    ) -> Iterator[EmbeddedBatch]:
        """Features of a list from a place on, batch by batch; see ``Embedder.batches``."""
        starts = range(start, len(images), self._batch_size)
        places = [range(at, min(at + self._batch_size, len(images))) for at in starts]
        embedded = self._on_gpu if self._engine.device.type != "cpu" else self._on_cpu
        for batch in embedded(images, places, workers):
            _check_finite(batch, images)
            yield batch

    def of_pixels(self, pixels: Sequence[UInt8[Tensor, "3 _ _"]]) -> Float[np.ndarray, "rows ..."]:
        """Features of decoded images, which share batches where shapes are equal."""
        rows = [(positions, self._started(stack).array()) for positions, stack in stacks(pixels)]
        return self.joined(rows, len(pixels))

    def of_images(self, images: Tensor) -> Tensor:
        """Features of a batch; halves it as often as the memory of the device asks for."""
        parts = torch.split(images, self._largest)
        try:
            features = torch.cat([self._engine(part).float() for part in parts])
        except torch.OutOfMemoryError:
            size = min(len(images), self._largest)
            if size == 1:
                height, width = images.shape[-2:]
                raise DinoError(
                    f"one image of {height} x {width} pixels is too much for the memory of "
                    f"{self._engine.device}; pass a smaller `size`, or `device='cpu'`"
                ) from None
            torch.cuda.empty_cache()
            self._largest = size // 2
            return self.of_images(images)
        if self._normalize:
            features = torch.nn.functional.normalize(features, dim=-1)
        return features

    def joined(
        self, rows: list[tuple[np.ndarray, np.ndarray]], count: int
    ) -> Float[np.ndarray, "rows ..."]:
        """One array out of parts that know their positions."""
        # Only a batch of failures has to ask the network what its rows would have been.
        shape = rows[0][1].shape[1:] if rows else self.shape
        joined = np.empty((count, *shape), dtype=np.float32)
        for positions, part in rows:
            joined[positions] = part
        return joined

    def _on_cpu(
        self, images: ImageList, places: list[range], workers: int | None
    ) -> Iterator[EmbeddedBatch]:
        """Embed on the CPU: each thread decodes and embeds whole batches alone.

        No thread waits for another inside a batch, which on a CPU is faster than to split every
        product among them, and decoding fills the gaps.
        """

        def work(part: range) -> EmbeddedBatch:
            batch = self._decoding.batch(images, part)
            return self._arrived(batch, [self._started(pixels) for _, pixels in batch.stacks])

        threads = cpu_threads(workers)
        if threads == 1:
            yield from map(work, places)
            return
        with one_thread_each(threads) as pool:
            waiting: deque[Future[EmbeddedBatch]] = deque()
            for part in places:
                waiting.append(pool.submit(work, part))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _on_gpu(
        self, images: ImageList, places: list[range], workers: int | None
    ) -> Iterator[EmbeddedBatch]:
        """Embed on the GPU: processes decode, and rows are copied during the next batch."""
        decoded = decoded_in_processes(
            self._decoding, images, places, workers=workers, pin_memory=True
        )
        before: tuple[DecodedBatch, list[LateNumbers]] | None = None
        for batch in decoded:
            coming = [self._started(pixels) for _, pixels in batch.stacks]
            if before is not None:
                yield self._arrived(*before)
            before = batch, coming
        if before is not None:
            yield self._arrived(*before)

    def _arrived(self, batch: DecodedBatch, coming: list[LateNumbers]) -> EmbeddedBatch:
        stacks = zip(batch.stacks, coming, strict=True)
        rows = [(positions, part.array()) for (positions, _), part in stacks]
        features = self.joined(rows, len(batch.indices))
        return EmbeddedBatch(batch.places, batch.indices, features, batch.files, batch.failures)

    def _started(self, pixels: Tensor) -> LateNumbers:
        pixels = pixels.to(self._engine.device, non_blocking=True)
        return LateNumbers(self.of_images(self._preprocess.normalized(pixels)))


def _check_finite(batch: EmbeddedBatch, images: ImageList) -> None:
    rows = batch.features.reshape(len(batch.features), batch.features[:1].size)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise CheckpointError(
            f"the features of {images.name(int(batch.indices[bad[0]]))!r} are not finite: "
            + WHY_NOT_FINITE
        )
