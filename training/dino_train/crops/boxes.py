"""Boxes of random-resized crops, from uniform random numbers."""

import math

import numpy as np
from jaxtyping import Float64, Int32, Integer

_TRIES = 10
BOX_DRAWS = 2 * _TRIES + 2
"""Uniform random numbers that a box takes."""


def random_resized_boxes(
    uniform: Float64[np.ndarray, "*batch crops draws"],
    *,
    height: int | Integer[np.ndarray, "*batch 1"],
    width: int | Integer[np.ndarray, "*batch 1"],
    scale: Float64[np.ndarray, "crops 2"],
    ratio: tuple[float, float],
) -> tuple[
    Int32[np.ndarray, "*batch crops"],
    Int32[np.ndarray, "*batch crops"],
    Int32[np.ndarray, "*batch crops"],
    Int32[np.ndarray, "*batch crops"],
]:
    """Boxes as torchvision's RandomResizedCrop draws them, from uniform random numbers.

    Each crop gets ten tries at an area and a log-uniform aspect ratio; the first box that fits is
    put anywhere inside the picture. If none fits, the box is the central one nearest in ratio.

    Args:
        uniform: 22 numbers in [0, 1) a crop: ten areas, ten ratios, vertical, horizontal position.
        height: Height of the picture.
        width: Width of the picture.
        scale: Lowest and highest share of the picture's area, of each crop.
        ratio: Lowest and highest width / height.

    Returns:
        Top, left, height and width.
    """
    heights, widths = (
        np.broadcast_to(one, uniform.shape[:-1])[..., None] for one in (height, width)
    )
    lowest, highest = scale[:, :1], scale[:, 1:]
    area = heights * widths * (lowest + uniform[..., :_TRIES] * (highest - lowest))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + uniform[..., _TRIES : 2 * _TRIES] * (high - low))
    wide, tall = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (wide > 0) & (wide <= widths) & (tall > 0) & (tall <= heights)
    first = fits.argmax(axis=-1)[..., None]
    wide, tall = (np.take_along_axis(one, first, axis=-1) for one in (wide, tall))
    top = np.floor(uniform[..., -2:-1] * (heights - tall + 1))
    left = np.floor(uniform[..., -1:] * (widths - wide + 1))
    boxes = np.concatenate([top, left, tall, wide], axis=-1).astype(np.int32)
    for place in np.argwhere(~fits.any(axis=-1)):
        of_crop = tuple(place)
        boxes[of_crop] = _central_box(int(heights[of_crop][0]), int(widths[of_crop][0]), ratio)
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]


def _central_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = max(round(width / ratio[0]), 1)
    elif width / height > ratio[1]:
        box_width = max(round(height * ratio[1]), 1)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
