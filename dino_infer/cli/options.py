"""Flags that mean the same in every command, and the embedder they ask for."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from dino_infer.cli.run import UsageError

DEFAULT_WEIGHTS = "timm:vit_small_patch16_224.dino"

Images = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="IMAGES ...", help_behavior_hint="(required)"),
]
"""Where images are, as arguments without a flag."""


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """Which weights to use."""

    weights: str = DEFAULT_WEIGHTS
    """A run folder, .safetensors or .pt of ours, a published DINO .pth, or timm:NAME (download)."""
    checkpoint_key: Literal["teacher", "student"] = "teacher"
    """Which network of a file that holds both."""
    arch: str | None = None
    """Architecture of the weights, where the file does not tell: vit_small, resnet50 ..."""
    patch_size: int | None = None
    """Side of a patch in pixels, where the file does not tell."""


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """How to run the network."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    batch_size: int = 64
    """Images embedded at once."""
    workers: int | None = None
    """Processes that read and decode images; by default as many as there are cores."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the network; features are float32 in any case."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, got {self.batch_size}")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers must not be negative, got {self.workers}")


def load_embedder(weights: WeightOptions, compute: ComputeOptions, *, size: int | None) -> Any:
    """The ``Embedder`` that the flags ask for.

    Raises:
        UsageError: Unknown arch, or a size below one patch.
    """
    from dino_infer.embed import Embedder

    check_positive("--size", size)
    try:
        embedder = Embedder.load(
            weights.weights,
            checkpoint_key=weights.checkpoint_key,
            arch=weights.arch,
            patch_size=weights.patch_size,
            size=size,
            device=compute.device,
            batch_size=compute.batch_size,
            workers=compute.workers,
            precision=compute.precision,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    patch = embedder.backbone.patch_size
    if embedder.backbone.has_attention and size is not None and size < patch:
        raise UsageError(f"--size must be at least one patch of {patch} px, got {size}")
    return embedder


def check_images(images: tuple[str, ...]) -> None:
    """Refuse a command line without images.

    Raises:
        UsageError: There are none.
    """
    if not images:
        raise UsageError("no images given; pass at least one folder, image, list or tar")


def check_positive(flag: str, value: int | None) -> None:
    """Refuse zero and below.

    Raises:
        UsageError: The value is below 1.
    """
    if value is not None and value < 1:
        raise UsageError(f"{flag} must be at least 1, got {value}")
