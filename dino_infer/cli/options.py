"""Flags that mean the same in every command, and the embedder they ask for."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from dino_infer.choices import Crop, EngineName, Precision
from dino_infer.cli.exit_codes import UsageError, printable, usage_errors
from dino_infer.errors import DataError
from dino_infer.files import why_not_writable

DEFAULT_WEIGHTS = "timm:vit_small_patch16_224.dino"

Images = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="IMAGES ...", help_behavior_hint="(required)"),
]
"""Sources of images, as positional arguments."""


FeatureName = Annotated[
    str, tyro.conf.arg(metavar="{cls,mean,cls+mean,gem,cls+gem,lastN,lastN+mean,patches}")
]
"""Feature that a network gives, see ``dino_infer.embedding.pooling.feature_of``."""
VectorName = Annotated[
    str | None, tyro.conf.arg(metavar="{cls,mean,cls+mean,gem,cls+gem,lastN,lastN+mean}")
]
"""Feature of one vector an image, or None for the default of a protocol."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Network that a file of weights holds, where the file does not tell."""

    checkpoint_key: str | None = None
    """Network of a file that holds several: student, teacher or its prefix in the file; by default
    teacher, or another average, or the only one."""
    arch: str | None = None
    """Architecture of the weights, such as vit_small or resnet50; by default what the file says."""
    patch_size: int | None = None
    """Side of a patch in pixels; by default what the file says."""

    def keywords(self) -> dict[str, Any]:
        """The arguments of ``load_backbone`` and ``Embedder.load`` beside the weights."""
        values = {field.name: getattr(self, field.name) for field in fields(SourceOptions)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class _Weights:
    weights: str | None = None
    """Run folder, .safetensors or .pt of ours, published DINO, DINOv2 or DINOv3 .pth, Hugging Face
    folder, exported .onnx (embedding only), or hf:ORG/NAME or timm:NAME to download."""


# The order of the bases is the reverse of that of the flags.
@dataclass(frozen=True, kw_only=True)
class WeightOptions(SourceOptions, _Weights):
    """Weights of the network; by default timm:vit_small_patch16_224.dino."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Reading of image tables."""

    image_column: str | None = None
    """Column of a .parquet table that holds the images or their paths; by default the first with a
    usual name, such as image, img or path."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Device and arithmetic of the network."""

    device: str = "auto"
    """Device to compute on: cpu, cuda or cuda:N; auto takes a GPU if there is one."""
    precision: Precision = "auto"
    """Precision of matrix products; auto is bf16 where the device multiplies it natively, else
    fp32. Features are float32 in any case."""
    compile: tyro.conf.FlagCreatePairsOff[bool] = False
    """Fuse the network with torch.compile: a wait at the start, then faster."""


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(DeviceOptions):
    """Execution of the network."""

    batch_size: int | None = None
    """Images embedded at once, halved if memory runs out; by default 16 on a CPU, 256 on a GPU."""
    workers: int | None = None
    """Threads that decode and embed on a CPU, processes that decode for a GPU; by default as many
    as there are cores."""
    engine: EngineName = "auto"
    """Runtime of the network; auto is torch, and for an .onnx file openvino where that is there and
    faster, else onnx. tensorrt compiles the file for a GPU, for minutes, once a file."""

    def __post_init__(self) -> None:
        check_positive("--batch-size", self.batch_size)
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers must not be negative, got {self.workers}")

    def keywords(self) -> dict[str, Any]:
        """The arguments of ``Embedder`` beside the engine."""
        return {
            "device": self.device,
            "batch_size": self.batch_size,
            "workers": self.workers,
            "precision": self.precision,
            "compiled": self.compile,
        }


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """Limits of images."""

    max_megapixels: float | None = None
    """Limit of an image in millions of pixels, beyond which it counts as unreadable; by default
    120."""
    max_file_mb: float | None = None
    """Limit of a file in megabytes, beyond which it counts as unreadable; by default 2,147."""

    def __post_init__(self) -> None:
        check_positive("--max-megapixels", self.max_megapixels)
        check_positive("--max-file-mb", self.max_file_mb)

    def keywords(self) -> dict[str, int]:
        """The arguments of ``Embedder`` that were given."""
        limits = {"max_pixels": self.max_megapixels, "max_file_bytes": self.max_file_mb}
        return {name: int(1e6 * value) for name, value in limits.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class CropOptions:
    """Part and size of an image that the network sees."""

    size: int | None = None
    """Side of the crop in pixels, or with --crop none the shorter side of the image; by default the
    size of the training crops."""
    crop: Crop | None = None
    """Part of the image to use: the central square, which is the default, or with none all of it in
    its own aspect ratio."""

    def __post_init__(self) -> None:
        check_positive("--size", self.size)


@dataclass(frozen=True, kw_only=True)
class _Decoding:
    exact_decode: tyro.conf.FlagCreatePairsOff[bool] = False
    """Decode every pixel of large JPEGs, several times slower; by default they are decoded at 1/2,
    1/4 or 1/8 of their size where that is still twice the size needed."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions(LimitOptions, _Decoding, CropOptions):
    """Part and size of an image that the network sees."""

    def __post_init__(self) -> None:
        LimitOptions.__post_init__(self)
        CropOptions.__post_init__(self)


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

    view = view or ViewOptions()
    with usage_errors():
        embedder = Embedder.load(
            weights.weights or DEFAULT_WEIGHTS,
            **weights.keywords(),
            engine=compute.engine,
            feature=feature,
            size=view.size,
            crop=view.crop or "center",
            exact_decode=view.exact_decode,
            normalize=normalize,
            **(compute.keywords() | view.keywords()),
        )
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


def check_out(out: str | Path) -> None:
    """Refuse, before anything is loaded, a place that cannot be written to.

    Raises:
        DataError: A folder above it is a file, or takes no new files.
    """
    folder = Path(out).absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        reason = "is a file"
    elif why := why_not_writable(folder):
        reason = f"takes no file ({why})"
    else:
        return
    raise DataError(
        f"cannot write {printable(out)!r}: {printable(folder)!r} {reason}; pass another `out`"
    )


def check_positive(flag: str, value: float | None) -> None:
    """Refuse zero, what is below, and what is no number.

    Raises:
        UsageError: The value is not positive.
    """
    if value is not None and not value > 0:  # NaN is not either
        least = "at least 1" if isinstance(value, int) else "above 0"
        raise UsageError(f"{flag} must be {least}, got {value}")
