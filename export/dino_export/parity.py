"""Comparison of an exported file with PyTorch: on photographs and noise, over sizes.

The comparison is with the backbone itself, not with the module that was traced.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dino_export.choices import Precision
from dino_export.errors import ExportError
from dino_export.graph import ExportedHead, Output
from dino_export.settings import ExportSettings
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.backbone import Backbone

BATCHES = (0, 1, 3, 8)  # none too: some operators of some runtimes divide by it
NEIGHBOR_IMAGES = 48  # photographs whose nearest neighbours are compared
MAX_ERROR = 1e-4  # fp32, in units of the output's root mean square
MIN_COSINE: dict[Precision, float] = {"fp32": 0.9999999, "fp16": 0.9999, "int8": 0.99}
BOUND_IN_INT8 = ("cls", "patches")  # the features; the rest is reported

Compute = Callable[[Tensor], Mapping[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """Deviation of one output from PyTorch's, over all batches."""

    max_error: float
    """Largest absolute difference, in units of the output's root mean square."""
    mean_error: float
    """Mean absolute difference, in the same units."""
    cosine: float
    """Cosine between the outputs for an image; the smallest of all images."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Result of a comparison."""

    deviations: dict[str, Deviation]
    """Deviation of each output."""
    images: int
    """Images compared."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths compared."""
    neighbor_agreement: float
    """Share of photographs whose nearest other photograph is the same by both features."""

    def check(self, precision: Precision, path: Path) -> None:
        """Refuse a file that is not equal enough.

        Raises:
            ExportError: With the output and the bound.
        """
        for name, found in self.deviations.items():
            if precision == "int8" and name not in BOUND_IN_INT8:
                continue
            if not found.cosine >= MIN_COSINE[precision]:  # also where it is NaN
                raise _unequal(
                    path, name, "a cosine of at least", MIN_COSINE[precision], found.cosine
                )
            if precision == "fp32" and not found.max_error <= MAX_ERROR:
                raise _unequal(path, name, "an error of at most", MAX_ERROR, found.max_error)


def reference(
    backbone: Backbone, outputs: Sequence[Output], head: Mapping[str, Tensor] | None
) -> Compute:
    """Reference outputs: those of PyTorch for normalised images, in float32."""
    logits = None if head is None else ExportedHead(head).eval()

    @torch.inference_mode()
    def compute(images: Tensor) -> dict[str, np.ndarray]:
        if "patches" in outputs:
            tokens = backbone.tokens(images)
            found = {"cls": tokens.cls, "patches": tokens.patches}
        else:
            found = {"cls": backbone(images)}
        if "attention" in outputs:
            found["attention"] = backbone.cls_attention(images)
        if logits is not None:
            found["logits"] = logits.to(images.device)(found["cls"])
        return {name: found[name].cpu().numpy() for name in outputs}

    return compute


def parity(
    expected: Compute,
    exported: Compute,
    settings: ExportSettings,
    *,
    sizes: Sequence[tuple[int, int]],
    preprocess: Preprocess,
    photos: Sequence[np.ndarray],
    device: torch.device,
    batches: Sequence[int] = BATCHES,
) -> Parity:
    """Compare over several batch sizes and all image sizes; every other image is noise.

    Args:
        expected: Function of normalised images.
        exported: Function of images as the settings say.
        settings: Settings of the exported file.
        sizes: Heights and widths.
        preprocess: Preprocessing with the mean and std of the weights.
        photos: RGB arrays, from which crops are cut.
        device: Device of the images of ``expected``.
        batches: Numbers of images, where the file leaves that open.

    Raises:
        ExportError: An output has another shape than PyTorch's.
    """
    rng = np.random.default_rng(0)
    batches = batches if settings.dynamic_batch else (1,)

    def both(pixels: Tensor) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
        normalized = preprocess.normalized(pixels).to(device)
        given = pixels.permute(0, 2, 3, 1).contiguous() if settings.preprocess else normalized
        return expected(normalized), exported(given)

    pairs = [both(_mixed(photos, size, batch, rng)) for size in sizes for batch in batches]
    size = sizes[0]
    per_run = batches[-1]
    crops = [
        both(
            torch.stack(
                [_crop(photos[i % len(photos)], size, rng) for i in range(start, start + per_run)]
            )
        )
        for start in range(0, NEIGHBOR_IMAGES, per_run)
    ]
    ours, theirs = (np.concatenate([pair[side]["cls"] for pair in crops]) for side in (0, 1))
    return Parity(
        deviations={
            name: _deviation(name, [(a[name], b[name]) for a, b in pairs])
            for name in settings.outputs
        },
        images=len(sizes) * sum(batches),
        sizes=tuple(sizes),
        neighbor_agreement=float(np.mean(_nearest(ours) == _nearest(theirs))),
    )


def compared_sizes(settings: ExportSettings, backbone: Backbone) -> tuple[tuple[int, int], ...]:
    """The one size of the file; or its own, a smaller and a wide one that fit no grid."""
    if not settings.dynamic_size:
        return (settings.size,)
    (height, width), patch = settings.size, backbone.patch_size
    small = max(patch, round(height * 3 / 7)), max(patch, round(width * 3 / 7))
    wide = (height, max(width + patch, round(width * 10 / 7) + 1))
    sizes = [settings.size, small, wide]
    if backbone.image_size <= min(height, width):  # where positions are not resampled
        sizes.append((backbone.image_size, backbone.image_size))
    return tuple(dict.fromkeys(sizes))


def sample_photos() -> list[np.ndarray]:
    """A photograph that every installation has: matplotlib's."""
    from matplotlib import cbook
    from PIL import Image

    path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    return [np.asarray(Image.open(path).convert("RGB"))]


def _mixed(
    photos: Sequence[np.ndarray], size: tuple[int, int], batch: int, rng: np.random.Generator
) -> Tensor:
    """Crops of photographs, and at odd places noise: uint8 (batch, 3, height, width)."""
    crops = [_crop(photos[i % len(photos)], size, rng) for i in range(batch)]
    noise = [torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for _ in crops]
    mixed = [noise[i] if i % 2 else crops[i] for i in range(batch)]
    return torch.stack(mixed) if mixed else torch.empty(0, 3, *size, dtype=torch.uint8)


def _crop(photo: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """A random window of between a fifth and all of the photograph, resized."""
    share = rng.uniform(0.2, 1)
    height, width = (max(1, round(share * side)) for side in photo.shape[:2])
    top, left = (
        rng.integers(0, side - part + 1)
        for side, part in zip(photo.shape[:2], (height, width), strict=True)
    )
    return Preprocess(size=size, crop="none").pixels(photo[top : top + height, left : left + width])


def _deviation(name: str, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> Deviation:
    largest, means, cosines = [], [], []
    for expected, found in pairs:
        if found.shape != expected.shape:
            raise ExportError(
                f"output {name!r} must have the shape {expected.shape}, got {found.shape}; "
                "nothing was written"
            )
        if not expected.size:
            continue
        scale = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64)))) or 1.0
        difference = np.abs(expected - found) / scale
        largest.append(float(difference.max()))
        means.append(float(difference.mean()))
        cosines.append(float(_cosines(expected, found).min()))
    return Deviation(
        max_error=float(np.max(largest)),
        mean_error=float(np.mean(means)),
        cosine=float(np.min(cosines)),
    )


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (first, second))
    cosines: np.ndarray = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return cosines


def _nearest(features: np.ndarray) -> np.ndarray:
    """The place of each row's nearest other row by cosine."""
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    places: np.ndarray = similarity.argmax(axis=1)
    return places


def _unequal(path: Path, name: str, wanted: str, bound: float, found: float) -> ExportError:
    return ExportError(
        f"{str(path)!r} does not compute what PyTorch does: output {name!r} must have {wanted} "
        f"{bound:g}, got {found:g}; nothing was written"
    )
