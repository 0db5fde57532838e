"""Flip, jitter, grayscale, blur and solarise one crop in one compiled pass: colour.py on bytes.

As there, every colour operation leaves the whole levels that Pillow leaves. Needs numba.
Importing this module compiles the kernel, or loads it from numba's cache.
"""

from typing import Any, no_type_check

import numba
import numpy as np
from jaxtyping import UInt8

from dino_train.crops.colour import LUMA
from dino_train.crops.parameters import CropParams

_LUMA_RED, _LUMA_GREEN, _LUMA_BLUE = (np.float32(share) for share in LUMA)
_PER_DEPTH = np.float32(1 / 255**2)
_BRIGHTNESS, _CONTRAST, _SATURATION = 0, 1, 2  # the kinds of CropParams.jitter_order; 3 is hue
_NEVER = 256  # a threshold that no level reaches

# Values are levels of 0 to 255: never infinite or NaN.
_OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}
# What is cut to whole levels is rounded where Pillow rounds: nothing may be fused or reordered.
_EXACT: dict[str, Any] = _OPTIONS | {"fastmath": {"nnan", "ninf", "nsz"}}
_SIGNATURE = numba.void(
    numba.types.Array(numba.uint8, 3, "C", readonly=True),
    numba.uint8[:, :, ::1],
    numba.boolean,
    numba.boolean,
    numba.types.Array(numba.int8, 1, "C", readonly=True),
    numba.types.Array(numba.float32, 1, "C", readonly=True),
    numba.boolean,
    numba.float32,
    numba.int32,
)

# no_type_check keeps type checkers that wrap functions away from what numba has to compile.


@numba.njit(**_OPTIONS)
@no_type_check
def _load_row(pixels, planes, flip):
    """Convert one row of interleaved bytes to three rows of floats."""
    red, green, blue = planes[0], planes[1], planes[2]
    # One axis, and unsigned where indices fall: only then are they vectorised.
    levels, last = pixels.reshape(-1), np.uint64(pixels.shape[0] - 1)
    if flip:
        for x in range(pixels.shape[0]):
            place = last - np.uint64(x)
            red[place], green[place], blue[place] = (
                levels[3 * x],
                levels[3 * x + 1],
                levels[3 * x + 2],
            )
    else:
        for x in range(pixels.shape[0]):
            red[x], green[x], blue[x] = levels[3 * x], levels[3 * x + 1], levels[3 * x + 2]


@numba.njit(**_EXACT)
@no_type_check
def _luma(red, green, blue):
    return np.floor(_LUMA_RED * red + _LUMA_GREEN * green + _LUMA_BLUE * blue + np.float32(0.5))


@numba.njit(**_OPTIONS)
@no_type_check
def _luma_sum(planes):
    red, green, blue = planes[0], planes[1], planes[2]
    total = np.float32(0)
    for x in range(red.shape[0]):
        total += _luma(red[x], green[x], blue[x])
    return total


@numba.njit(**_EXACT)
@no_type_check
def _blend(start, level, factor):
    mixed = start + factor * (level - start)
    return np.floor(min(max(mixed, np.float32(0)), np.float32(255)))


@numba.njit(**_EXACT)
@no_type_check
def _scale_from(planes, factor, start):
    """Multiply the distance from a level: brightness from 0, contrast from the mean luma."""
    for channel in range(3):
        plane = planes[channel]
        for x in range(plane.shape[0]):
            plane[x] = _blend(start, plane[x], factor)


@numba.njit(**_EXACT)
@no_type_check
def _scale_from_luma(planes, factor):
    """Multiply the distance of each pixel from its luma: saturation; 0 is grayscale."""
    red, green, blue = planes[0], planes[1], planes[2]
    for x in range(red.shape[0]):
        luma = _luma(red[x], green[x], blue[x])
        red[x] = _blend(luma, red[x], factor)
        green[x] = _blend(luma, green[x], factor)
        blue[x] = _blend(luma, blue[x], factor)


@numba.njit(**_EXACT)
@no_type_check
def _turn_hue(planes, turn):
    """Turn the hue in HSV of 8 bits; colour.adjust_hue says how."""
    red, green, blue = planes[0], planes[1], planes[2]
    steps = np.float32(int(np.float64(turn) * 255) % 256)
    zero, half, one, six = np.float32(0), np.float32(0.5), np.float32(1), np.float32(6)
    n255, n256, n510 = np.float32(255), np.float32(256), np.float32(510)
    for x in range(red.shape[0]):
        r, g, b = red[x], green[x], blue[x]
        high, low = max(max(r, g), b), min(min(r, g), b)
        chroma = high - low
        saturation = np.floor(chroma * n255 / max(high, one))
        lead = b - r if g == high else r - g
        base = np.float32(2) if g == high else np.float32(4)
        lead = g - b if r == high else lead
        base = zero if r == high else base
        sign = one if lead >= zero else -one
        share = (base + sign - sign * ((chroma - abs(lead)) / max(chroma, one))) / six
        share = share + one if share < zero else share
        hue = np.floor(share * n255) + steps
        hue = hue - n256 if hue >= n256 else hue
        place = hue * six
        depth = high * saturation
        loss_red = min(max(n510 - abs(place - np.float32(765)), zero), n255)
        loss_green = min(max(abs(place - n510) - n255, zero), n255)
        loss_blue = min(max(abs(place - np.float32(1020)) - n255, zero), n255)
        red[x] = np.floor(high + half - depth * loss_red * _PER_DEPTH)
        green[x] = np.floor(high + half - depth * loss_green * _PER_DEPTH)
        blue[x] = np.floor(high + half - depth * loss_blue * _PER_DEPTH)


@numba.njit(**_OPTIONS)
@no_type_check
def _jitter_row(planes, order, first, last, factors, mean_luma):
    """Apply some of the colour operations to one row, in their order."""
    for turn in range(first, last):
        kind = order[turn]
        if kind == _BRIGHTNESS:
            _scale_from(planes, factors[kind], np.float32(0))
        elif kind == _CONTRAST:
            _scale_from(planes, factors[kind], mean_luma)
        elif kind == _SATURATION:
            _scale_from_luma(planes, factors[kind])
        else:
            _turn_hue(planes, factors[kind])


@numba.njit(**_OPTIONS)
@no_type_check
def _blur_weights(sigma, size):
    """Row ``reach + d`` is what each place takes from the place ``d`` further on.

    The matrix of colour.gaussian_blur by its diagonals: places away from the edges have equal
    weights, the others follow the three box filters one by one.
    """
    variance = np.float64(sigma) ** 2 / 3
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    fraction = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    radius = whole + fraction / (6 * (variance - (whole + 1) ** 2))
    step = int(whole) + 1
    reach = 3 * step
    weights = np.zeros((2 * reach + 1, size), np.float32)
    spread, wider = np.zeros(size), np.zeros(size)
    for place in range(size):
        if reach < place < size - reach:
            weights[:, place] = weights[:, place - 1]
            continue
        spread[:] = 0
        spread[place] = 1
        for _ in range(3):
            wider[:] = 0
            for start in range(max(0, place - reach), min(size, place + reach + 1)):
                for d in range(-step, step + 1):
                    share = min(1.0, max(0.0, radius + 1 - abs(d))) / (2 * radius + 1)
                    wider[min(max(start + d, 0), size - 1)] += spread[start] * share
            spread[:] = wider
        for start in range(max(0, place - reach), min(size, place + reach + 1)):
            weights[start - place + reach, place] = spread[start]
    return weights


@numba.njit(**_OPTIONS)
@no_type_check
def _blur_across(source, made, weights):
    """Blur one row of ``source`` into ``made``."""
    reach, width = weights.shape[0] // 2, source.shape[0]
    made[:] = 0
    for d in range(-min(reach, width - 1), min(reach, width - 1) + 1):
        first, last = max(0, -d), min(width, width - d)
        # Slices, because indices that could be negative are not vectorised.
        target, shares = made[first:last], weights[d + reach, first:last]
        taken = source[first + d : last + d]
        for x in range(last - first):
            target[x] += shares[x] * taken[x]


@numba.njit(**_OPTIONS)
@no_type_check
def _blur_down(rows, y, made, weights):
    """Blur the columns of ``rows`` into row ``y`` of the result."""
    reach, height = weights.shape[0] // 2, rows.shape[0]
    made[:] = 0
    for d in range(max(-reach, -y), min(reach, height - 1 - y) + 1):
        share, taken = weights[d + reach, y], rows[y + d]
        for x in range(made.shape[0]):
            made[x] += share * taken[x]


@numba.njit(**_OPTIONS)
@no_type_check
def _store_row(levels, made, threshold):
    """Round to bytes and solarise."""
    for x in range(levels.shape[0]):
        level = np.int32(levels[x] + np.float32(0.5))
        made[x] = np.uint8(255 - level if level >= threshold else level)


@no_type_check
def _augment_one(pixels, made, flip, jitter, order, factors, grayscale, sigma, threshold):
    height, width = pixels.shape[:2]
    rows = np.empty((height, 3, width), np.float32)
    split = 0  # the contrast needs the mean of what the operations before it leave
    while jitter and order[split] != _CONTRAST:
        split += 1
    total = 0.0
    for y in range(height):
        _load_row(pixels[y], rows[y], flip)
        if jitter:
            _jitter_row(rows[y], order, 0, split, factors, np.float32(0))
            total += _luma_sum(rows[y])
    mean_luma = np.float32(np.floor(total / (height * width) + 0.5))
    for y in range(height):
        if jitter:
            _jitter_row(rows[y], order, split, 4, factors, mean_luma)
        if grayscale:
            _scale_from_luma(rows[y], np.float32(0))
    if sigma == 0:
        for y in range(height):
            for channel in range(3):
                _store_row(rows[y, channel], made[channel, y], threshold)
        return
    across = _blur_weights(sigma, width)
    down = across if height == width else _blur_weights(sigma, height)
    half, row = np.empty((height, width), np.float32), np.empty(width, np.float32)
    for channel in range(3):
        for y in range(height):
            _blur_across(rows[y, channel], half[y], across)
        for y in range(height):
            _blur_down(half, y, row, down)
            _store_row(row, made[channel, y], threshold)


@no_type_check
def _compiled(function):
    try:
        return numba.njit(_SIGNATURE, cache=True, **_OPTIONS)(function)
    except RuntimeError:  # neither this folder nor the user's can be written
        return numba.njit(_SIGNATURE, **_OPTIONS)(function)


_augment = _compiled(_augment_one)


def augment(
    pixels: UInt8[np.ndarray, "height width 3"],
    made: UInt8[np.ndarray, "3 height width"],
    params: CropParams,
    crop: int,
    *,
    solarize_threshold: int,
) -> None:
    """Mirror one crop, change its colours, blur and solarise it.

    Args:
        pixels: The crop after it was resized, contiguous.
        made: Room for the result, contiguous.
        params: Parameters of crops.
        crop: Row of this crop.
        solarize_threshold: Levels from this one on are inverted.
    """
    _augment(
        pixels,
        made,
        params.flip[crop],
        params.jitter[crop],
        params.jitter_order[crop],
        params.jitter_factors[crop],
        params.grayscale[crop],
        params.blur_sigma[crop],
        solarize_threshold if params.solarize[crop] else _NEVER,
    )
