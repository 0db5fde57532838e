"""An engine that costs nothing, for tests of what goes on around the network."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_infer.embedding.embedder import Embedder
from dino_infer.images.preprocess import Preprocess

SIDE = 4
"""Pixels that an image is averaged down to."""


class PixelEngine:
    """A fixed projection of the colours of 4 x 4 cells.

    Args:
        shape: Of the feature of one image.
        seed: Of the projection.
        stop_after: Raise KeyboardInterrupt instead of embedding more batches than this.
        memory_images: Raise torch.OutOfMemoryError for larger batches.
    """

    device = torch.device("cpu")
    patch_size = None

    def __init__(
        self,
        *,
        shape: tuple[int, ...] = (16,),
        seed: int = 0,
        stop_after: int | None = None,
        memory_images: int | None = None,
    ) -> None:
        self.seed, self.shape = seed, shape
        self.stop_after, self.memory_images = stop_after, memory_images
        generator = torch.Generator().manual_seed(seed)
        length = int(torch.tensor(shape).prod())
        self.projection = torch.randn(3 * SIDE * SIDE, length, generator=generator)
        self.seen = 0
        self.batches: list[int] = []

    def description(self) -> dict[str, object]:
        """As a network's."""
        weights = f"{self.seed:064x}"
        return {
            "arch": "pixels", "feature": "pooled", "precision": "fp32", "weights_sha256": weights,
        }  # fmt: skip

    def __call__(self, images: Tensor) -> Tensor:
        """The feature of each image; blank ones, which only tell the shape, are not counted."""
        if not images.any():
            return torch.zeros(len(images), *self.shape)
        if self.memory_images is not None and len(images) > self.memory_images:
            raise torch.OutOfMemoryError(f"no room for {len(images)}")
        if self.stop_after is not None and len(self.batches) == self.stop_after:
            raise KeyboardInterrupt
        self.batches.append(len(images))
        self.seen += len(images)
        cells = F.adaptive_avg_pool2d(images, SIDE).flatten(1)
        # Row by row, so that a row is the same bits in any batch.
        rows = [row @ self.projection for row in cells]
        return torch.stack(rows).unflatten(1, self.shape)


def pixel_embedder(engine: PixelEngine | None = None, **options) -> Embedder:
    """An embedder of small images that works through batches of 4, one after the other."""
    options = {"batch_size": 4, "workers": 1} | options
    return Embedder(engine or PixelEngine(), Preprocess(size=16), **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
