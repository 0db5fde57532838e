"""Colour, blur and normalisation of a batch of crops: plain tensor maths, shared by both executors.

Pixels are floats that hold whole levels, 0 to 255, and each colour operation leaves whole levels
again: those of Pillow's operation on bytes. Only the blur differs, where Pillow rounds six times.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from torch import Tensor

from dino_train.crops.parameters import CropParams

# ITU-R BT.601 in the 16 bits of Pillow's conversion to "L"; sums with whole levels are exact.
LUMA = (19595 / 2**16, 38470 / 2**16, 7471 / 2**16)


def augment_colours(
    images: Float[Tensor, "crops 3 height width"], params: CropParams, *, solarize_threshold: int
) -> None:
    """Jitter, grayscale, blur and solarise each image in place, as its parameters say.

    Which images take part in an operation is known on the host, so the others cost nothing and
    nothing waits for the device.

    Args:
        images: Whole levels from 0 to 255; so is what comes out.
        params: One row an image; the boxes and flips are not looked at.
        solarize_threshold: Levels from this one on are inverted.
    """
    _jitter(images, params)
    _change(images, params.blur_sigma > 0, _whole_blur, params.blur_sigma)
    _change(images, params.solarize, lambda part: solarize(part, threshold=solarize_threshold))


def adjust_brightness(
    images: Float[Tensor, "crops 3 height width"], factor: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    """Multiply each image by its factor: 0 is black, 1 changes nothing."""
    return (images * factor[:, None, None, None]).clamp_(0, 255).floor_()


def adjust_contrast(
    images: Float[Tensor, "crops 3 height width"], factor: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    """Move each image away from its mean luma, a whole level: 0 is flat, 1 changes nothing."""
    mean = _luma(images).mean(dim=(2, 3), keepdim=True)
    return _blend(mean.add_(0.5).floor_(), images, factor)


def adjust_saturation(
    images: Float[Tensor, "crops 3 height width"], factor: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    """Move each pixel away from its luma: 0 is grey, 1 changes nothing."""
    return _blend(_luma(images), images, factor)


def adjust_hue(
    images: Float[Tensor, "crops 3 height width"], turn: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    """Turn the hue of each image, in HSV; 1 is the full circle, 0 none.

    As in Pillow, hue, saturation and value are bytes, so that colours shift by some levels even
    without a turn, and the turn is cut to 255ths. Where the exact hue is a whole number, the
    rounding of what leads to it decides between that number and one less; so the order of the
    operations counts, divisions included. Products of three bytes are exact in floats.
    """
    red, green, blue = images.unbind(dim=1)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - torch.minimum(torch.minimum(red, green), blue)
    # Masks of 1.0 and 0.0 and lerp: torch.where takes several times as long on a CPU.
    green_leads = torch.eq(green, high, out=torch.empty_like(high))
    red_leads = torch.eq(red, high, out=torch.empty_like(high))
    lead = (red - green).lerp_(blue - red, green_leads).lerp_(green - blue, red_leads)
    side = lead.sign()
    hue = torch.addcmul(side, green_leads.sub_(2), red_leads.sub_(1), value=2)  # 0, 2 or 4 more
    hue.addcmul_(side, (chroma - lead.abs_()).div_(chroma.clamp(min=1)), value=-1).div_(6)
    hue.sub_(hue.floor()).mul_(255).floor_()
    hue.add_((turn.double() * 255).trunc_().remainder_(256).float()[:, None, None])
    hue.sub_(torch.ge(hue, 256, out=side), alpha=256)
    depth = chroma.mul_(255).div_(high.clamp(min=1)).floor_().mul_(high)
    losses = (
        510 - torch.rsub(hue, 765, alpha=6).abs_(),
        torch.rsub(hue, 510, alpha=6).abs_().sub_(255),
        torch.rsub(hue, 1020, alpha=6).abs_().sub_(255),
    )
    return torch.stack(
        [torch.addcmul(high, depth, loss.clamp_(0, 255), value=-1 / 255**2) for loss in losses],
        dim=1,
    ).round_()


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
    across = blur_matrix(sigma, width)
    down = across if height == width else blur_matrix(sigma, height)
    return down[:, None] @ (images.flatten(1, 2) @ across.mT).view_as(images)


def blur_matrix(sigma: Float[Tensor, " crops"], size: int) -> Float[Tensor, "crops size size"]:
    """Three box filters in a row, each with its edges repeated, as one matrix an image.

    Args:
        sigma: Standard deviation in pixels, above 0.
        size: Pixels of a line.
    """
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


def blur_reach(sigma: float) -> int:
    """Radius of a blur in pixels: three times that of one box filter."""
    return 3 * (math.floor((math.sqrt(4 * sigma**2 + 1) - 1) / 2) + 1)


def solarize(
    images: Float[Tensor, "*crops 3 height width"], *, threshold: int
) -> Float[Tensor, "*crops 3 height width"]:
    """Invert the levels from the threshold on."""
    inverted = torch.ge(images, threshold, out=torch.empty_like(images))  # 1.0 or 0.0
    return inverted.mul_(255).sub_(images).abs_()


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
    # A GPU converts as it reads; a CPU is slow at that.
    levels = images if images.is_cuda else images.float()
    return torch.addcmul(shift.to(images.device, non_blocking=True), levels, scale)


def _jitter(images: Float[Tensor, "crops 3 height width"], params: CropParams) -> None:
    """Apply each operation to the images that take part in it."""
    jitters = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    for turn in range(len(jitters)):
        for kind, adjust in enumerate(jitters):
            chosen = params.jitter & (params.jitter_order[:, turn] == kind)
            _change(images, chosen, adjust, params.jitter_factors[:, kind])
    _change(images, params.grayscale, grayscale)


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
    luma = (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return luma.add_(0.5).floor_()


def _blend(
    other: Float[Tensor, "crops 1 ..."],
    images: Float[Tensor, "crops 3 height width"],
    factor: Float[Tensor, " crops"],
) -> Float[Tensor, "crops 3 height width"]:
    mixed = (images - other).mul_(factor[:, None, None, None]).add_(other)
    return mixed.clamp_(0, 255).floor_()


def _whole_blur(
    images: Float[Tensor, "crops 3 height width"], sigma: Float[Tensor, " crops"]
) -> Float[Tensor, "crops 3 height width"]:
    return gaussian_blur(images, sigma).round_()
