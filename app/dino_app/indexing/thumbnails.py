"""Small pictures for lists of results: upright, without EXIF, position or any other metadata."""

import io
import math

from PIL import Image

from dino_infer.images.encoded import DEFAULT_MAX_PIXELS
from dino_infer.images.read import read_image

LONGEST_SIDE = 256
_QUALITY = 75


def thumbnail(
    data: bytes,
    *,
    name: str,
    longest_side: int = LONGEST_SIDE,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> bytes:
    """A WebP picture of an encoded image; never larger than the image itself.

    Args:
        data: The content of an image file.
        name: Name of the image in errors.
        longest_side: Longest side of the picture in pixels.
        max_pixels: Larger images are refused.

    Raises:
        ImageError: The image cannot be decoded, or is beyond a limit.
    """
    # Twice the size wanted, so that the last step, which is the careful one, still averages.
    least = (2 * longest_side, 2 * longest_side)
    pixels = read_image(data, path=name, max_pixels=max_pixels, min_scale_size=least)
    height, width = pixels.shape[:2]
    scale = min(1.0, longest_side / max(height, width))
    size = (max(1, math.floor(scale * width)), max(1, math.floor(scale * height)))
    picture = Image.fromarray(pixels)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY)
    return file.getvalue()
