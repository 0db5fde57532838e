"""Decode JPEGs with libjpeg-turbo directly: the same pixels as Pillow, faster.

Needs simplejpeg; without it, and for whatever is unusual, every function here returns None
and Pillow does the work.
"""

import functools
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

from dino_infer.images import jpegs
from dino_infer.images.limits import UNQUESTIONED_PIXELS

SCALES = (8, 4, 2)
"""Divisors of the size at which a JPEG can be decoded at once."""

_LEAST_SCALED = 64  # in pixels; smaller sides come out equal at several scales


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a plain JPEG, which needs no further check; None of any other file.

    It holds 8-bit colours or greys in one scan, no metadata but JFIF's, so it lies upright, and is
    so small that no limit on its memory applies.
    """
    if not jpegs.is_jpeg(data) or _simplejpeg() is None:
        return None
    size, components, place = None, 0, 2
    try:
        while data[place] == 0xFF:
            marker, start = data[place + 1], place + 4
            if marker == jpegs.SCAN[1]:
                return size if components == data[start] else None
            if marker in jpegs.SEQUENTIAL and data[start] == 8:
                size = _number(data, start + 1), _number(data, start + 3)
                components = data[start + 5]
                if components not in (1, 3) or not 0 < size[0] * size[1] <= UNQUESTIONED_PIXELS:
                    return None
            elif marker not in jpegs.HARMLESS:
                return None
            place += 2 + max(2, _number(data, place + 2))
    except IndexError:
        pass
    return None


def pixels(
    data: bytes,
    size: tuple[int, int],
    *,
    min_scale_size: tuple[int, int] | None,
    out: UInt8[np.ndarray, " bytes"] | None = None,
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Decode a JPEG of colours or greys as it is stored, bit for bit as Pillow does.

    Args:
        data: The file.
        size: Height and width that its header says.
        min_scale_size: Height and width that suffice; see ``images.read_image``.
        out: Room for the pixels, if given: at least as many bytes as they take.

    Returns:
        None where libjpeg has anything to object, so that Pillow can decide.
    """
    simplejpeg = _simplejpeg()
    if simplejpeg is None:
        return None
    by = 1 if min_scale_size is None else divisor(size, min_scale_size)
    if by > 1 and min(size) < _LEAST_SCALED:
        return None
    height, width = -(-size[0] // by), -(-size[1] // by)
    try:
        decoded: np.ndarray = simplejpeg.decode_jpeg(
            data, "RGB", min_height=height, min_width=width, buffer=out
        )
    except ValueError:  # also for what libjpeg mends and warns about
        return None
    return decoded if decoded.shape == (height, width, 3) else None


def is_fast() -> bool:
    """True if simplejpeg is installed."""
    return _simplejpeg() is not None


def divisor(size: tuple[int, int], least: tuple[int, int]) -> int:
    """Largest divisor that leaves at least this size, else 1; chosen as by Pillow's ``draft``."""
    times = min(size[0] // least[0], size[1] // least[1])
    return next((by for by in SCALES if times >= by), 1)


def _number(data: bytes, place: int) -> int:
    return data[place] << 8 | data[place + 1]


@functools.cache
def _simplejpeg() -> ModuleType | None:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg  # type: ignore[no-any-return]
