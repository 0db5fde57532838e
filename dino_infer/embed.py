"""Images to feature vectors: decoded in worker processes, embedded in batches."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from PIL import Image
from torch import Tensor

from dino_infer.backbones import Backbone
from dino_infer.checkpoints import load_backbone, weights_sha256
from dino_infer.decoding import decoded_batches, rgb_array, stacks
from dino_infer.errors import CheckpointError, DinoError
from dino_infer.images import ImageFailure
from dino_infer.listing import ImageList
from dino_infer.preprocess import Preprocess
from dino_infer.progress import Progress

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Feature rows of the images that could be read, in the order of the list."""

    features: Float32[np.ndarray, "rows dim"]
    ok: Bool[np.ndarray, " images"]
    """Which images of the list have a row."""
    failures: tuple[ImageFailure, ...]
    """The others, in order, and what is wrong with them."""
    sizes: Int64[np.ndarray, "rows 2"]
    """Upright (height, width) of each image in pixels."""
    sha256: tuple[str, ...]
    """Hex digest of each image file."""


class Embedder:
    """Turns images into feature vectors.

        embedder = Embedder.load("runs/photos", batch_size=128)
        embedding = embedder.embed(list_images(["photos/"]))

    Rows do not depend on the batch size, on the images beside them or on the number of workers,
    but for float rounding.

    Args:
        backbone: Moved to the device and switched to evaluation mode.
        preprocess: Image to tensor, as the weights need it.
        device: "auto" takes a GPU if there is one.
        batch_size: Images embedded at once.
        workers: Processes that read and decode; None chooses by the number of cores.
        precision: Of the network; features are float32 in any case.

    Raises:
        DinoError: The device is not there.
        ValueError: A size, count or precision is out of range.
    """

    def __init__(
        self,
        backbone: Backbone,
        preprocess: Preprocess,
        *,
        device: str | torch.device = "auto",
        batch_size: int = 64,
        workers: int | None = None,
        precision: Precision = "fp32",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if workers is not None and workers < 0:
            raise ValueError(f"workers must not be negative, got {workers}")
        self.device = resolved_device(device)
        self.backbone = backbone.to(self.device).eval()
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.workers = workers
        self.precision: Precision = precision

    @classmethod
    def load(
        cls,
        weights: str | Path,
        *,
        checkpoint_key: str = "teacher",
        arch: str | None = None,
        patch_size: int | None = None,
        size: int | None = None,
        device: str | torch.device = "auto",
        batch_size: int = 64,
        workers: int | None = None,
        precision: Precision = "fp32",
    ) -> "Embedder":
        """An embedder from weights, with the preprocessing that they need.

        Args:
            weights: Run folder, checkpoint file or ``timm:NAME``; see ``load_backbone``.
            checkpoint_key: "teacher" or "student", for files that hold both.
            arch: What the weights are for, where the file does not tell.
            patch_size: Likewise.
            size: Side in pixels of the centre crop; None takes the size of the training crops.
            device: As in the constructor.
            batch_size: As in the constructor.
            workers: As in the constructor.
            precision: As in the constructor.

        Raises:
            CheckpointError: The weights are missing, damaged or do not fit.
        """
        device = resolved_device(device)
        backbone, info = load_backbone(
            weights, checkpoint_key=checkpoint_key, arch=arch, patch_size=patch_size
        )
        preprocess = Preprocess(size=size or info.image_size, mean=info.mean, std=info.std)
        return cls(
            backbone,
            preprocess,
            device=device,
            batch_size=batch_size,
            workers=workers,
            precision=precision,
        )

    def description(self) -> dict[str, Any]:
        """How features were made: the part of a feature set's manifest that is the embedder's."""
        return {
            "arch": self.backbone.arch,
            "feature": "cls" if self.backbone.has_attention else "pooled",
            "precision": self.precision,
            "preprocess": self.preprocess.as_metadata(),
            "weights_sha256": weights_sha256(self.backbone),
        }

    def embed(self, images: ImageList) -> Embedding:
        """Feature of every image of a list that can be read; the others are reported.

        Raises:
            CheckpointError: The network gives features that are not finite.
        """
        features = np.empty((len(images), self.backbone.embed_dim), dtype=np.float32)
        ok = np.zeros(len(images), dtype=np.bool_)
        sizes, digests, failures, rows = [], [], [], 0
        with Progress("embed", total=len(images)) as progress:
            for batch in decoded_batches(
                images,
                self.preprocess,
                batch_size=self.batch_size,
                workers=self.workers,
                pin_memory=self.device.type == "cuda",
            ):
                stop = rows + len(batch.indices)
                for positions, pixels in batch.stacks:
                    features[rows + positions] = self._features(pixels)
                _check_finite(features[rows:stop], images, batch.indices)
                ok[batch.indices] = True
                sizes += batch.sizes
                digests += batch.digests
                failures += batch.failures
                rows = stop
                progress.advance(len(batch.indices) + len(batch.failures))
        return Embedding(
            features=features[:rows],
            ok=ok,
            failures=tuple(failures),
            sizes=np.array(sizes, dtype=np.int64).reshape(rows, 2),
            sha256=tuple(digests),
        )

    def embed_arrays(
        self, pictures: Sequence[np.ndarray | Image.Image]
    ) -> Float32[np.ndarray, "pictures dim"]:
        """Feature of each picture in memory: uint8 RGB arrays or Pillow images of any mode.

        Raises:
            ValueError: An array is not uint8 of shape (height, width, 3).
        """
        features = np.empty((len(pictures), self.backbone.embed_dim), dtype=np.float32)
        for start in range(0, len(pictures), self.batch_size):
            part = pictures[start : start + self.batch_size]
            pixels = [self.preprocess(rgb_array(picture)) for picture in part]
            for positions, stack in stacks(pixels):
                features[start + positions] = self._features(stack)
        return features

    @torch.inference_mode()
    def _features(self, pixels: Tensor) -> Float32[np.ndarray, "batch dim"]:
        with self._autocast():
            features: Tensor = self.backbone(pixels.to(self.device, non_blocking=True))
        rows: np.ndarray = features.float().cpu().numpy()
        return rows

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=AUTOCAST[self.precision])


def resolved_device(device: str | torch.device) -> torch.device:
    """The device meant; "auto" is a GPU if there is one.

    Raises:
        DinoError: No such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts when it is built without CUDA
        reason = str(error).splitlines()[0]
        raise DinoError(
            f"device {str(device)!r} cannot be used ({reason}); pass --device cpu or auto"
        ) from error


def _check_finite(
    features: Float32[np.ndarray, "rows dim"],
    images: ImageList,
    indices: Int64[np.ndarray, " rows"],
) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise CheckpointError(
            f"the features of {images.name(int(indices[bad[0]]))!r} are not finite: the weights "
            "are damaged, or the precision is too low; try --precision fp32"
        )
