"""Pictures of any Pillow mode become 8-bit RGB; images.py says by which rules."""

import math
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 258, 262  # numbers of the tags


def rgb(image: Image.Image) -> Image.Image:
    """The loaded image in mode RGB: deep samples scaled, transparent pixels laid on white."""
    if image.mode[0] in "IF":  # I, I;16, I;16B, F
        return Image.fromarray(_eight_bits(image)).convert("RGB")
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # an optional part of Pillow

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # only in-place conversions return None
    return converted


def _eight_bits(image: Image.Image) -> UInt8[np.ndarray, "height width"]:
    values = np.array(image, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, dtype=np.uint8)
    low = float(values.min(where=finite, initial=math.inf))
    high = float(values.max(where=finite, initial=-math.inf))
    black, white = _black_and_white(image, low, high)
    # In place: a full-size scan is 1.4 GB here.
    np.nan_to_num(values, copy=False, nan=low, posinf=high, neginf=low)
    values -= black
    values *= 255 / (white - black)
    return np.rint(values.clip(0, 255, out=values), out=values).astype(np.uint8)


def _black_and_white(image: Image.Image, low: float, high: float) -> tuple[float, float]:
    """The sample values that become 0 and 255; ``low`` and ``high`` are the extremes found."""
    if image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I"):
        tags: dict[int, Any] = getattr(image, "tag_v2", {})
        white = 2.0 ** tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0] - 1
        white_is_zero = tags.get(_TIFF_PHOTOMETRIC) == 0
        return (white, 0.0) if white_is_zero else (0.0, white)
    whites = (1.0, 255.0, 65_535.0) if image.mode == "F" else (255.0, 65_535.0)
    for white in whites:
        if low >= 0 and high <= white:
            return 0.0, white
    return low, high if high > low else math.inf
