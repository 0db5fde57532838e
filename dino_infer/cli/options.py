"""Flags that mean the same in every command, and the embedder they ask for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from dino_infer.choices import Crop, EngineName, Precision
from dino_infer.cli.exit_codes import UsageError

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
    """A run folder, .safetensors or .pt of ours, a published DINO, DINOv2 or DINOv3 .pth, a Hugging
    Face folder, hf:ORG/NAME or timm:NAME (download), or an exported .onnx (embedding only)."""
    checkpoint_key: str = "teacher"
    """Network of a file that holds several: teacher (or another average, or the only one), student,
    or its prefix in the file."""
    arch: str | None = None
    """Architecture of the weights, where the file does not tell: vit_small, resnet50 ..."""
    patch_size: int | None = None
    """Side of a patch in pixels, where the file does not tell."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How tables of images are read."""

    image_column: str | None = None
    """Column of a .parquet table that holds the images or their paths; by default the first usual
    one, such as image, img or path."""


@contextmanager
def column_flag() -> Iterator[None]:
    """Name the flag that helps where a table has no column that is known to hold images."""
    from dino_infer.errors import ColumnError

    try:
        yield
    except ColumnError as error:
        raise ColumnError(f"{error}: pass --image-column NAME") from error


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """How to run the network."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    batch_size: int | None = None
    """Images embedded at once; by default 16 on a CPU, 256 on a GPU. Halved if memory runs out."""
    workers: int | None = None
    """Threads that decode and embed on a CPU, processes that decode for a GPU; by default as many
    as there are cores."""
    precision: Precision = "auto"
    """Of matrix products; auto is bf16 where the device multiplies it natively, else fp32.
    Features are float32 in any case."""
    engine: EngineName = "auto"
    """What runs the network; auto runs an .onnx file in onnxruntime and all else in PyTorch.
    tensorrt has onnxruntime compile the file for a GPU: minutes, once for each file."""
    compile: tyro.conf.FlagCreatePairsOff[bool] = False
    """Fuse the network with torch.compile: a wait at the start, then faster."""

    def __post_init__(self) -> None:
        check_positive("--batch-size", self.batch_size)
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers must not be negative, got {self.workers}")


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """What the network sees of an image."""

    size: int | None = None
    """Side of the crop in pixels, or with --crop none the shorter side; by default the size of the
    training crops."""
    crop: Crop | None = None
    """The central square, which is the default, or all of the image in its own aspect ratio."""
    exact_decode: tyro.conf.FlagCreatePairsOff[bool] = False
    """Decode every pixel of large JPEGs, several times slower; by default those of more than twice
    the size needed are decoded at 1/2, 1/4 or 1/8."""
    max_megapixels: float | None = None
    """Larger images count as unreadable; by default 120."""
    max_file_mb: float | None = None
    """Larger files count as unreadable; by default 2,147."""

    def __post_init__(self) -> None:
        for flag, value in (("--size", self.size), ("--max-megapixels", self.max_megapixels)):
            check_positive(flag, value)
        check_positive("--max-file-mb", self.max_file_mb)


def load_embedder(
    weights: WeightOptions,
    compute: ComputeOptions,
    view: ViewOptions | None = None,
    *,
    feature: Any = "cls",
    normalize: bool = False,
) -> Any:
    """The ``Embedder`` that the flags ask for.

    Raises:
        UsageError: Unknown arch, a size below one patch, or a feature that the network lacks.
    """
    from dino_infer.embedding.embedder import Embedder
    from dino_infer.images.read import DEFAULT_MAX_PIXELS, MAX_FILE_BYTES

    view = view or ViewOptions()
    pixels, file_mb = view.max_megapixels, view.max_file_mb
    try:
        embedder = Embedder.load(
            weights.weights,
            checkpoint_key=weights.checkpoint_key,
            arch=weights.arch,
            patch_size=weights.patch_size,
            engine=compute.engine,
            feature=feature,
            precision=compute.precision,
            size=view.size,
            crop=view.crop or "center",
            exact_decode=view.exact_decode,
            device=compute.device,
            compiled=compute.compile,
            batch_size=compute.batch_size,
            workers=compute.workers,
            normalize=normalize,
            max_pixels=DEFAULT_MAX_PIXELS if pixels is None else int(1e6 * pixels),
            max_file_bytes=MAX_FILE_BYTES if file_mb is None else int(1e6 * file_mb),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    patch = embedder.engine.patch_size
    if patch is not None and view.size is not None and view.size < patch:
        raise UsageError(f"--size must be at least one patch of {patch} px, got {view.size}")
    return embedder


def check_images(images: tuple[str, ...]) -> None:
    """Refuse a command line without images.

    Raises:
        UsageError: There are none.
    """
    if not images:
        raise UsageError("no images given; pass at least one folder, image, list or tar")


def check_positive(flag: str, value: float | None) -> None:
    """Refuse zero and below.

    Raises:
        UsageError: The value is not positive.
    """
    if value is not None and value <= 0:
        least = "at least 1" if isinstance(value, int) else "above 0"
        raise UsageError(f"{flag} must be {least}, got {value}")
