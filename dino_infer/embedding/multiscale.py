"""Features of whole images at several scales, as instance retrieval takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dino_infer.choices import Precision
from dino_infer.devices import resolved_device
from dino_infer.embedding.embedder import Embedder
from dino_infer.embedding.engines import Engine, TorchEngine
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone, Images

SCALES = (1.0, 2**-0.5, 0.5)
"""Scales whose features are averaged, by https://arxiv.org/abs/2104.14294, section 4.2.1."""


@dataclass(frozen=True)
class LongerSide(Preprocess):
    """The whole image in its aspect ratio, its longer side at most ``size``; never enlarged."""

    crop: Any = "none"

    least_side: int = 1
    """Least pixels of a side, so that a strip still holds one patch."""

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size of the image after resizing."""
        scale = min(1.0, max(self._sides) / max(height, width))
        tall, wide = (max(self.least_side, round(side * scale)) for side in (height, width))
        return tall, wide


def scaled_embedder(
    backbone: Backbone,
    preprocess: Preprocess,
    *,
    scales: Sequence[float],
    feature: str = "cls",
    device: str | torch.device = "auto",
    precision: Precision = "auto",
    compiled: bool = False,
    **options: Any,
) -> Embedder:
    """An embedder that gives the mean feature over several scales.

    Args:
        backbone: The network.
        preprocess: Image to tensor, at the largest scale.
        scales: See ``ScaledEngine``.
        feature: See ``Embedder``.
        device: See ``Embedder``.
        precision: See ``Embedder``.
        compiled: Without effect: whole images have too many sizes to compile for each.
        **options: More arguments of ``Embedder``.

    Raises:
        ValueError: The backbone has no such feature.
    """
    engine = TorchEngine(
        backbone, feature=feature, device=resolved_device(device), precision=precision
    )
    return Embedder(ScaledEngine(engine, scales), preprocess, **options)


class ScaledEngine:
    """An engine that sees each image at several scales and gives the mean of its features.

    The right and bottom edges are cut to whole patches at each scale; an image never becomes
    smaller than a patch.

    Args:
        engine: Maker of the features.
        scales: Sides relative to the image that is given, such as ``SCALES``.
    """

    def __init__(self, engine: Engine, scales: Sequence[float]) -> None:
        self.device = engine.device
        self.patch_size = engine.patch_size
        self._engine = engine
        self._scales = tuple(scales)

    def description(self) -> dict[str, Any]:
        """The engine's description, and the scales."""
        return {**self._engine.description(), "scales": list(self._scales)}

    @torch.inference_mode()
    def __call__(self, images: Images) -> Float[Tensor, "batch dim"]:
        """The mean feature of each image, not scaled to length 1."""
        seen = [self._engine(self._at(images, scale)).float() for scale in self._scales]
        return torch.stack(seen).mean(dim=0)

    def _at(self, images: Tensor, scale: float) -> Tensor:
        patch = self.patch_size or 1
        if scale != 1:
            sides = [max(patch, int(side * scale)) for side in images.shape[-2:]]
            images = F.interpolate(images, size=sides, mode="bilinear", align_corners=False)
        height, width = (side - side % patch for side in images.shape[-2:])
        return images[..., :height, :width]
