"""Convert pictures of any Pillow mode to upright 8-bit RGB; ``read_image`` has the rules."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""

_BAND_PIXELS = 1 << 18  # small enough to stay in the processor's cache
_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 258, 262  # numbers of the tags

_TURN_UPRIGHT = {  # by EXIF orientation; 1 is upright already
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BOTTOM_FIRST = (3, 4, 6, 7)  # the first row is stored where the upright picture ends


def rgb(image: Image.Image, *, orientation: int = 1) -> UInt8[np.ndarray, "height width 3"]:
    """A loaded image as RGB: deep samples scaled, transparent pixels laid on white.

    It is converted band by band, so that no second picture in another mode fills the memory.

    Args:
        image: Image of any mode.
        orientation: Orientation of the stored picture as EXIF numbers it, 1 to 8.
    """
    width, height = image.size
    shape = (width, height, 3) if orientation in SIDEWAYS else (height, width, 3)
    upright = np.empty(shape, dtype=np.uint8)
    converted = _conversion(image)
    for top, band in _bands(image):
        start = height - top - band.height if orientation in _BOTTOM_FIRST else top
        place = slice(start, start + band.height)
        if orientation in _TURN_UPRIGHT:
            band = band.transpose(_TURN_UPRIGHT[orientation])
        upright[(slice(None), place) if orientation in SIDEWAYS else place] = converted(band)
    return upright


def upright(
    stored: UInt8[np.ndarray, "stored_height stored_width 3"], orientation: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Pixels as they should be seen, from an EXIF orientation of 1 to 8."""
    turned = stored.swapaxes(0, 1) if orientation in SIDEWAYS else stored
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::rows, ::columns])


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image cut into rows, each part with the row where it begins."""
    width, height = image.size
    rows = max(1, _BAND_PIXELS // max(1, width))
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _conversion(image: Image.Image) -> Callable[[Image.Image], np.ndarray]:
    """Function that turns a band of this image into RGB, or into greys that count for all three."""
    if image.mode[0] in "IF":  # I, I;16, I;16B, F
        return functools.partial(_eight_bits, levels=_levels(image))
    if image.mode == "LAB":
        return _lab_conversion()
    if image.has_transparency_data:
        return _on_white
    return lambda band: np.asarray(band.convert("RGB"))


def _on_white(band: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    canvas = Image.new("RGBA", band.size, "white")
    canvas.alpha_composite(band.convert("RGBA"))
    return np.asarray(canvas.convert("RGB"))


def _lab_conversion() -> Callable[[Image.Image], np.ndarray]:
    from PIL import ImageCms  # an optional part of Pillow

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(lab, srgb, "LAB", "RGB")
    return lambda band: np.asarray(ImageCms.applyTransform(band, transform))


class _Levels(NamedTuple):
    """The sample values that become 0 and 255, and the extremes of the finite ones."""

    black: float
    white: float
    low: float
    high: float


def _eight_bits(band: Image.Image, *, levels: _Levels) -> UInt8[np.ndarray, "height width 1"]:
    values = np.array(band, dtype=np.float64)
    np.nan_to_num(values, copy=False, nan=levels.low, posinf=levels.high, neginf=levels.low)
    values -= levels.black
    values *= 255 / (levels.white - levels.black)
    greys: np.ndarray = np.rint(values.clip(0, 255)).astype(np.uint8)
    return greys[..., None]


def _levels(image: Image.Image) -> _Levels:
    if image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I"):
        tags: dict[int, Any] = getattr(image, "tag_v2", {})
        white = 2.0 ** tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0] - 1
        black = 0.0
        if tags.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero
            black, white = white, black
        return _Levels(black, white, low=0.0, high=65_535.0)
    low, high = _extremes(image)
    for white in (1.0, 255.0, 65_535.0) if image.mode == "F" else (255.0, 65_535.0):
        if low >= 0 and high <= white:
            return _Levels(0.0, white, low, high)
    return _Levels(low, high if high > low else math.inf, low, high)


def _extremes(image: Image.Image) -> tuple[float, float]:
    """The darkest and the brightest finite sample; both 0 where there is none."""
    low, high = math.inf, -math.inf
    for _, band in _bands(image):
        values = np.asarray(band)
        finite = values[np.isfinite(values)].astype(np.float64)
        low = float(finite.min(initial=low))
        high = float(finite.max(initial=high))
    return (low, high) if low <= high else (0.0, 0.0)
