"""Smallest sizes at which images can be decoded without loss to their crops, and their memory."""

import math
from statistics import median_low
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Integer

from dino_infer.errors import ImageError
from dino_infer.images.encoded import EncodedImage
from dino_infer.images.read import image_size
from dino_infer.sources.image_list import ImageList
from dino_train.crops.parameters import CropParams
from dino_train.crops.spec import CropSpec

# Pixels decoded per pixel of the smallest crop and axis. Twice as many would halve how much softer
# that crop is than one from all pixels (1.2 levels on average), and cost half as much time again.
_DECODE_OVERSAMPLING = 1.0

_ESTIMATE_MARGIN = 1.1  # images that were not looked at may be larger


def box_sides(params: CropParams) -> Int32[np.ndarray, "batch crops"]:
    """The shorter side of each box, in pixels."""
    sides: np.ndarray = np.minimum(params.height, params.width)
    return sides


def least_box_sides(
    spec: CropSpec, sizes: Integer[np.ndarray, "batch 2"]
) -> Float64[np.ndarray, "batch crops"]:
    """The shorter side of the smallest box that can be drawn for each crop, in pixels."""
    scales = [spec.global_crops_scale] * 2 + [spec.local_crops_scale] * spec.local_crops_number
    lowest = np.array([low for low, _ in scales]) * min(spec.crop_ratio[0], 1 / spec.crop_ratio[1])
    sides = np.sqrt(sizes.prod(axis=1)[:, None] * lowest) - 0.5  # boxes are rounded
    least: np.ndarray = np.minimum(sides, sizes.min(axis=1)[:, None])
    return least


class DecodedAmount(NamedTuple):
    """Size of a listing when it is decoded."""

    bytes: int
    """Memory for all images at the size that suffices in any epoch."""
    scaled: bool
    """True if some image is decoded smaller than its file."""


def decoded_amount(images: ImageList, spec: CropSpec, *, sample: int = 200) -> DecodedAmount:
    """An estimate from the headers of some images."""
    sizes, scaled = [], False
    for index in np.linspace(0, len(images) - 1, min(sample, len(images))).astype(int):
        try:
            image = EncodedImage(images.read(index), path=images.name(index))
            full = np.array([image.size])
        except ImageError:
            continue  # it takes no room
        (least,) = sufficient_sizes(least_box_sides(spec, full), spec, full)
        kept = image.decoded_size(least)
        sizes.append(3 * math.prod(kept))
        scaled = scaled or kept != image.size
    total = math.ceil(_ESTIMATE_MARGIN * np.mean(sizes) * len(images)) if sizes else 0
    return DecodedAmount(total, scaled)


def sufficient_sizes(
    sides: Int32[np.ndarray, "batch crops"] | Float64[np.ndarray, "batch crops"],
    spec: CropSpec,
    sizes: Integer[np.ndarray, "batch 2"],
) -> list[tuple[int, int] | None]:
    """Heights and widths at which pictures still have pixels enough for boxes with these sides."""
    spare = (sides / np.array(spec.sizes())).min(axis=1) / _DECODE_OVERSAMPLING
    return [
        # Decoders shrink by 2 at least.
        None if by < 2 else (math.ceil(height / by), math.ceil(width / by))
        for (height, width), by in zip(sizes.tolist(), spare.tolist(), strict=True)
    ]


def usual_side(images: ImageList) -> int:
    """Median shorter side, in pixels, of a few images spread over the listing."""
    sides = []
    for index in range(0, len(images), max(1, len(images) // 32)):
        try:
            sides.append(min(image_size(images.read(index), images.name(index))))
        except ImageError:
            continue  # training lists it
    return median_low(sides) if sides else 256
