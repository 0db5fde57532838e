"""Colour, blur and normalisation of a batch of crops: plain tensor maths, shared by both executors.

Pixels are floats in levels, 0 to 255, and stay within them; nothing is rounded in between.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int8, Shaped, UInt8
from torch import Tensor

from dino_train.crops import CropParams

LUMA = (19595, 38470, 7471)  # of 65536: ITU-R BT.601 as Pillow's conversion to "L" has it


def augment_colours(
    images: Float[Tensor, "crops 3 height width"], params: CropParams, *, solarize_threshold: int
) -> None:
    """Jitter, grayscale, blur and solarise each image in place, as its parameters say.

    Which images take part in an operation is known on the host, so the others cost nothing and
    nothing waits for the device.

    Args:
        images: Levels from 0 to 255.
        params: One row an image; the boxes and flips are not looked at.
        solarize_threshold: Levels from this one on are inverted.
    """
    if images.is_cuda:
        _jitter_at_once(images, params)
    else:
        _jitter_by_kind(images, params)
    _change(images, params.blur_sigma > 0, gaussian_blur, params.blur_sigma)
    _change(images, params.solarize, lambda part: solarize(part, threshold=solarize_threshold))


def jittered(
    images: Float[Tensor, "crops 3 height width"],
    order: Int8[Tensor, "crops 4"],
    factors: Float32[Tensor, "crops 4"],
    gray: Bool[Tensor, " crops"],
) -> Float[Tensor, "crops 3 height width"]:
    """Jitter and grayscale without a branch: what a compiler fuses into a few passes on a GPU.

    Every turn computes all four operations and takes for each image the one that is due.

    Args:
        images: Levels from 0 to 255.
        order: As in ``CropParams.jitter_order``.
        factors: As in ``CropParams.jitter_factors``; (1, 1, 1, 0) changes nothing.
        gray: Images that lose their colours.
    """
    for turn in range(order.shape[1]):
        kind = order[:, turn, None, None, None]
        made = adjust_hue(images, factors[:, 3])
        made = torch.where(kind == 2, adjust_saturation(images, factors[:, 2]), made)
        made = torch.where(kind == 1, adjust_contrast(images, factors[:, 1]), made)
        images = torch.where(kind == 0, adjust_brightness(images, factors[:, 0]), made)
    return torch.where(gray[:, None, None, None], grayscale(images), images)


def adjust_brightness(
    images: Float[Tensor, "crops 3 height width"], factor: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    """Multiply each image by its factor: 0 is black, 1 changes nothing."""
    return (images * factor[:, None, None, None]).clamp_(0, 255)


def adjust_contrast(
    images: Float[Tensor, "crops 3 height width"], factor: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    """Move each image away from its mean luma: 0 is flat, 1 changes nothing."""
    return _blend(_luma(images).mean(dim=(2, 3), keepdim=True), images, factor)


def adjust_saturation(
    images: Float[Tensor, "crops 3 height width"], factor: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    """Move each pixel away from its luma: 0 is grey, 1 changes nothing."""
    return _blend(_luma(images), images, factor)


def adjust_hue(
    images: Float[Tensor, "crops 3 height width"], turn: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    """Turn the hue of each image, in HSV; 1 is the full circle, 0 changes nothing.

    Highest and lowest channel of a pixel stay; only their roles turn, so there is no division by
    the value and no clamp.
    """
    red, green, blue = images.unbind(dim=1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = high - low
    per_chroma = chroma.clamp(min=1e-6).reciprocal_()  # greys: 0 / 1e-6 is a hue of 0
    # Masks of 1.0 and 0.0 and lerp: torch.where takes several times as long on a CPU.
    green_leads = torch.eq(green, high, out=torch.empty_like(high))
    red_leads = torch.eq(red, high, out=torch.empty_like(high))
    sextant = (red - green).mul_(per_chroma).add_(4)
    sextant.lerp_((blue - red).mul_(per_chroma).add_(2), green_leads)
    sextant.lerp_((green - blue).mul_(per_chroma), red_leads)
    sextant.add_(6 * turn[:, None, None])
    sextant.sub_((sextant / 6).floor_().mul_(6))
    shares = (
        (sextant - 3).abs_().sub_(1),
        (sextant - 2).abs_().neg_().add_(2),
        (sextant - 4).abs_().neg_().add_(2),
    )
    return torch.stack([torch.addcmul(low, chroma, share.clamp_(0, 1)) for share in shares], dim=1)


def grayscale(
    images: Float[Tensor, "crops 3 height width"],
) -> Float[Tensor, "crops 3 height width"]:
    """Replace the three channels by the luma."""
    return _luma(images).expand_as(images)


def gaussian_blur(
    images: Float[Tensor, "crops 3 height width"], sigma: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    """Blur each image with its own standard deviation in pixels, above 0.

    As in Pillow, a Gaussian is three box filters of fractional width, and each repeats the pixels
    at the edge. The three are one matrix an axis, and the blur two matrix products.

    Source: P. Gwosdek et al., Theoretical foundations of Gaussian convolution by extended box
        filtering, SSVM 2011, equations 7 and 11.
    """
    height, width = images.shape[2:]
    across = _blur_matrix(sigma, width)
    down = across if height == width else _blur_matrix(sigma, height)
    return down[:, None] @ (images.flatten(1, 2) @ across.mT).view_as(images)


def solarize(
    images: Float[Tensor, "*crops 3 height width"], *, threshold: int
) -> Float[Tensor, "*crops 3 height width"]:
    """Invert the levels that round to the threshold or more."""
    inverted = torch.ge(images, threshold - 0.5, out=torch.empty_like(images))  # 1.0 or 0.0
    return torch.addcmul(images, inverted, 255 - 2 * images)


def normalize(
    images: Float[Tensor, "*crops 3 height width"] | UInt8[Tensor, "*crops 3 height width"],
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> Float32[Tensor, "*crops 3 height width"]:
    """Turn levels of 0 to 255 into units of ``std`` about ``mean``, which are shares of 255."""
    scale = torch.tensor([1 / (255 * one) for one in std]).view(3, 1, 1)
    shift = torch.tensor([-of / one for of, one in zip(mean, std, strict=True)]).view(3, 1, 1)
    scale = scale.to(images.device, non_blocking=True)
    return torch.addcmul(shift.to(images.device, non_blocking=True), images.float(), scale)


def _jitter_by_kind(images: Float[Tensor, "crops 3 height width"], params: CropParams) -> None:
    """Each operation on those images alone that take part in it."""
    jitters = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for turn in range(len(jitters)):
        for kind, adjust in enumerate(jitters):
            chosen = params.jitter & (params.jitter_order[:, turn] == kind)
            _change(images, chosen, adjust, params.jitter_factors[:, kind])
    _change(images, params.grayscale, grayscale)


def _jitter_at_once(images: Float[Tensor, "crops 3 height width"], params: CropParams) -> None:
    neutral = np.array([1, 1, 1, 0], dtype=np.float32)
    values = (
        params.jitter_order,
        np.where(params.jitter[:, None], params.jitter_factors, neutral),
        params.grayscale,
    )
    own = (torch.from_numpy(value).to(images.device, non_blocking=True) for value in values)
    images.copy_(_compiled_jitter()(images, *own))


@functools.cache
def _compiled_jitter() -> Callable[..., Tensor]:
    return torch.compile(jittered)


def _change(
    images: Float[Tensor, "crops 3 height width"],
    chosen: Bool[np.ndarray, " crops"],
    operation: Callable[..., Tensor],
    *values: Shaped[np.ndarray, " crops"],
) -> None:
    """Overwrite the chosen images by what the operation makes of them and of their values."""
    rows = np.flatnonzero(chosen)
    if rows.size == 0:
        return
    own = (torch.from_numpy(value[rows]).to(images.device, non_blocking=True) for value in values)
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == rows.size:  # neighbours are a view; nothing to gather
        part = images[first : last + 1]
        part.copy_(operation(part, *own))
    else:
        index = torch.from_numpy(rows).to(images.device, non_blocking=True)
        images.index_copy_(0, index, operation(images.index_select(0, index), *own))


def _luma(
    images: Float[Tensor, "crops 3 height width"],
) -> Float[Tensor, "crops 1 height width"]:
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _blend(
    other: Float[Tensor, "crops 1 ..."],
    images: Float[Tensor, "crops 3 height width"],
    factor: Float[Tensor, " crops"],
) -> Float[Tensor, "crops 3 height width"]:
    factor = factor[:, None, None, None]
    return (images * factor).add_(other * (1 - factor)).clamp_(0, 255)


def _blur_matrix(sigma: Float[Tensor, " crops"], size: int) -> Float[Tensor, "crops size size"]:
    """Three box filters in a row, each with its edges repeated, as one matrix an image."""
    variance = sigma[:, None, None].square() / 3  # of one of the three
    whole = (((12 * variance + 1).sqrt() - 1) / 2).floor()
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    radius = whole + fraction / (6 * (variance - (whole + 1).square()))
    place = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    box = (radius + 1 - (place[:, None] - place).abs()).clamp_(0, 1)
    box[:, :, 0] += (radius[..., 0] - place).clamp_(min=0)  # what falls off the edge stays on it
    box[:, :, -1] += (radius[..., 0] - place.flip(0)).clamp_(min=0)
    box /= 2 * radius + 1
    return box @ box @ box
