"""Device executor: all crops of a batch of decoded images at once, on the device.

The batch travels as decoded bytes. On a GPU ``triton_kernels`` makes the crops. Elsewhere they are
matrix products: cutting a box out, mirroring it and resizing it with an antialiased bicubic filter
is linear in each axis, so a crop is ``down @ image @ across.T`` with two banded matrices, and every
crop of one size comes out of two batched products.
"""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64, Real, UInt8
from torch import Tensor

from dino_train.crops.colour import augment_colours
from dino_train.crops.memory import PackedImages, pack_images
from dino_train.crops.parameters import CropParams, draw_batch
from dino_train.crops.spec import CropSpec

_CPU_MEMORY_MIB, _GPU_MEMORY_MIB = 256, 1024
_EVERYTHING = CropSpec(
    local_crops_number=0, jitter_probability=1, grayscale_probability=0.4, solarize_probability=0.5
)
_CHECK_LEVELS = 0.5
"""Mean difference of the kernels from plain maths that is still rounding: a level off before hue or
solarisation becomes many after it, in a few pixels. Any mistake gives several levels."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DeviceBatch:
    """Decoded images and what to do with them; the crops are not made yet."""

    images: PackedImages
    params: CropParams
    """Parameters with one row an image, one column a crop."""
    full_sizes: Int32[np.ndarray, "batch 2"] | None = None
    """Height and width of each picture before it was scaled, for caches of images."""

    def pin_memory(self) -> "DeviceBatch":
        """The same batch where a GPU can copy it from without waiting."""
        pinned = self.images.pixels.pin_memory()
        return replace(self, images=replace(self.images, pixels=pinned, lease=None))

    def to(self, device: torch.device) -> "DeviceBatch":
        """The same batch on the device."""
        pixels = self.images.pixels.to(device, non_blocking=True)
        return replace(self, images=replace(self.images, pixels=pixels))

    def select(self, rows: Int64[np.ndarray, " chosen"]) -> "DeviceBatch":
        """Return a view of the chosen rows; no image is copied."""
        return DeviceBatch(images=self.images.select(rows), params=self.params[rows])

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that lie on the device."""
        return (self.images.pixels,)

    def crops(self, spec: CropSpec) -> tuple[Tensor, Tensor | None]:
        """Global and local crops, in levels."""
        return make_device_crops(self, spec)


def make_device_crops(
    batch: DeviceBatch, spec: CropSpec
) -> tuple[
    Real[Tensor, "2 batch 3 global_size global_size"],
    Real[Tensor, "local_crops batch 3 local_size local_size"] | None,
]:
    """Global and local crops in whole levels, not yet normalised; bytes if kernels made them."""
    device = batch.images.pixels.device
    kernels = None
    if device.type == "cuda":
        local = (spec.local_crops_size,) if spec.local_crops_number else ()
        kernels = _kernels(device, spec.global_crops_size, *local)
    crops_of: Callable[..., Tensor]
    if kernels is None:
        crops_of = functools.partial(_plain_crops, batch.images.padded())
    else:
        crops_of = functools.partial(kernels.made_crops, batch.images)

    threshold = spec.solarize_threshold
    params, size = batch.params[:, :2], spec.global_crops_size
    global_crops = crops_of(params, size=size, solarize_threshold=threshold)
    if spec.local_crops_number == 0:
        return global_crops, None
    params, size = batch.params[:, 2:], spec.local_crops_size
    return global_crops, crops_of(params, size=size, solarize_threshold=threshold)


def _plain_crops(
    images: UInt8[Tensor, "batch height width 3"],
    params: CropParams,
    *,
    size: int,
    solarize_threshold: int,
) -> Float32[Tensor, "crops batch 3 size size"]:
    """Compute the crops of ``triton_kernels.made_crops`` in plain tensor maths."""
    crops = resized_crops(images, params, size=size)
    augment_colours(crops.flatten(0, 1), params.crop_major(), solarize_threshold=solarize_threshold)
    return crops


@functools.cache
def _kernels(device: torch.device, *sizes: int) -> ModuleType | None:
    """The Triton kernels, checked for crops of these sizes; None where they do not work."""
    try:
        from dino_train.crops import triton_kernels

        for size in sizes:
            _check(triton_kernels.made_crops, device, size=size)
    except Exception as error:
        logger.warning(
            "crops are made by plain PyTorch, many times slower than by Triton, which does not "
            "work here: %s",
            error,
        )
        return None
    return triton_kernels


class _WrongCropsError(Exception):
    """Kernels that make other crops than plain maths; the message says how far off."""


def _check(made_crops: Callable[..., Tensor], device: torch.device, *, size: int) -> None:
    """Compare crops that a device makes of made-up images with those that the CPU computes.

    Raises:
        _WrongCropsError: They differ by more than rounding.
    """
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (7, 5, 3), dtype=np.uint8).repeat(tall, axis=0).repeat(wide, axis=1)
        for tall, wide in ((size // 3 + 1, size // 4 + 1), (1, size // 2 + 1), (size // 5 + 1, 1))
    ]
    images = pack_images(pictures)
    keys = [(0, row) for row in range(len(pictures))]
    params = draw_batch(_EVERYTHING, seed=0, keys=keys, sizes=images.sizes)
    plain = _plain_crops(images.padded(), params, size=size, solarize_threshold=128)
    there = replace(images, pixels=images.pixels.to(device))
    made = made_crops(there, params, size=size, solarize_threshold=128).cpu().float()
    off = float((made - plain).abs().mean())
    if not off <= _CHECK_LEVELS:  # nor NaN
        raise _WrongCropsError(
            f"its crops of {size} px differ from the CPU's by {off:.1f} levels on average, where "
            f"rounding gives at most {_CHECK_LEVELS:g}"
        )


def resized_crops(
    images: UInt8[Tensor, "batch height width 3"],
    params: CropParams,
    *,
    size: int,
    dtype: torch.dtype | None = None,
    memory_mib: int | None = None,
) -> Float32[Tensor, "crops batch 3 size size"]:
    """Cut, resize and mirror ``(batch, crops)`` boxes into whole levels of 0 to 255.

    Args:
        images: Images in the upper left corners; what lies outside the boxes does not count.
        params: Boxes and flips.
        size: Side of the crops.
        dtype: Arithmetic of the two matrix products. None is float32 on a CPU, and float16 on a
            GPU: off by a level here and there, and many times faster there.
        memory_mib: Bound on the temporary memory of the products, beyond one image's. None is
            256 on a CPU and 1024 on a GPU.
    """
    batch, height, width = images.shape[:3]
    dtype = dtype or (torch.float16 if images.is_cuda else torch.float32)
    memory_mib = memory_mib or (_GPU_MEMORY_MIB if images.is_cuda else _CPU_MEMORY_MIB)
    crops = params.top.shape[1]
    out = torch.empty(crops, batch, 3, size, size, device=images.device)
    numbers = 3 * height * (width + 2 * crops * size) + 5 * crops * size * (height + width)
    step = max(1, (memory_mib << 20) // (numbers * dtype.itemsize))
    for start in range(0, batch, step):
        part = slice(start, start + step)
        out[:, part] = _products(images[part], params[part], size=size, dtype=dtype)
    return out


def resize_weights(
    start: Int[Tensor, "*crops"],
    length: Int[Tensor, "*crops"],
    flip: Bool[Tensor, "*crops"] | None,
    *,
    size: int,
    extent: int,
) -> Float32[Tensor, "*crops size extent"]:
    """Weights that resize pixels ``start`` to ``start + length`` of a line of ``extent`` pixels.

    Bicubic with a = -1/2. Where the line shrinks, the filter widens by the same factor. Pixels
    outside the box count as absent, as if the box had been cut out first.

    Args:
        start: First pixel of each box.
        length: Pixels of each box, at least 1.
        flip: Boxes to mirror; None mirrors none.
        size: Pixels of the result.
        extent: Pixels of the line.

    Source: R. Keys, Cubic convolution interpolation for digital image processing, 1981; widened as
        in Pillow's ``Image.resize``.
    """
    scale = length[..., None] / size
    place = torch.arange(size, device=start.device) + 0.5
    if flip is not None:
        place = torch.where(flip[..., None], size - place, place)
    pixels = torch.arange(extent, device=start.device) + 0.5 - start[..., None]
    distance = (place * scale)[..., :, None] - pixels[..., None, :]
    weights = _cubic(distance.abs_() / scale.clamp(min=1)[..., None])
    weights *= ((pixels > 0) & (pixels < length[..., None]))[..., None, :]
    return weights / weights.sum(dim=-1, keepdim=True)


def _products(
    images: UInt8[Tensor, "batch height width 3"],
    params: CropParams,
    *,
    size: int,
    dtype: torch.dtype,
) -> Float[Tensor, "crops batch 3 size size"]:
    batch, height, width = images.shape[:3]
    crops = params.top.shape[1]
    top, left, box_height, box_width, flip = (
        torch.from_numpy(np.ascontiguousarray(value)).to(images.device, non_blocking=True)
        for value in (params.top, params.left, params.height, params.width, params.flip)
    )
    across = resize_weights(left, box_width, flip, size=size, extent=width).to(dtype)
    down = resize_weights(top, box_height, None, size=size, extent=height).to(dtype)
    pixels = images.permute(0, 3, 1, 2).to(dtype, memory_format=torch.contiguous_format)
    # Pillow also resizes across first, and clips overshoot and rounds after each axis.
    rows = (pixels.flatten(1, 2) @ across.flatten(1, 2).mT).clamp_(0, 255).round_()
    rows = rows.view(batch, 3, height, crops, size).permute(0, 3, 2, 1, 4)
    made = (down @ rows.flatten(3, 4)).clamp_(0, 255).round_()
    return made.view(batch, crops, size, 3, size).permute(1, 0, 3, 2, 4)


def _cubic(distance: Float32[Tensor, "*any"]) -> Float32[Tensor, "*any"]:
    outer, inner = (2 - distance).clamp_(min=0), (1 - distance).clamp_(min=0)
    return outer.square() * (outer - 1) / 2 + inner.square() * (1 - 2 * inner)
