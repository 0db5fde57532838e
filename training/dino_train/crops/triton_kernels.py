"""Device executor on a GPU: every crop of a batch in a few Triton kernels, as bytes in between.

The crops of ``device_crops`` and ``colour``, which say the same in plain tensor maths, with which
tests compare. There each step passes over every pixel of every crop; here a kernel reads what it
needs and writes whole levels once:

- ``_resample`` cuts, mirrors and resizes along one axis, straight from the packed images;
- ``_colour`` jitters a crop in its own order, and grays it, in two passes, one without contrast;
- ``_blur`` blurs along one axis, those crops alone that are to be blurred.

Needs Triton, which comes with PyTorch for NVIDIA and AMD.
"""

from typing import no_type_check

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Shaped, UInt8
from torch import Tensor

from dino_train.crops.colour import LUMA, blur_matrix, blur_reach
from dino_train.crops.memory import PackedImages
from dino_train.crops.parameters import CropParams

_LUMA_RED, _LUMA_GREEN, _LUMA_BLUE = (tl.constexpr(share) for share in LUMA)
_PER_DEPTH = tl.constexpr(1 / 255**2)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = (tl.constexpr(kind) for kind in range(4))
_NO_OPERATION = -1
_FIELDS = tl.constexpr(8)
_ROUNDER = tl.constexpr(1.5 * 2**23)  # adding it leaves no room for what is below one

_LINES, _OUTPUTS = 8, 32  # of one program of _resample
_PIXELS = 1024  # that one program of the others works on at once


def made_crops(
    images: PackedImages, params: CropParams, *, size: int, solarize_threshold: int
) -> UInt8[Tensor, "crops batch 3 size size"]:
    """Crops of one size with all that their parameters say.

    Args:
        images: Images on a GPU, at any places of one tensor.
        params: One row an image, one column a crop.
        size: Side of the crops.
        solarize_threshold: Levels from this one on are inverted where an image is solarised.
    """
    batch, crops = params.top.shape
    own = params.crop_major()
    made = images.pixels.new_empty(crops, batch, 3, size, size)
    _resize(images, own, made)
    _jitter(made, own)
    _blur_some(made, own)
    rows = np.flatnonzero(own.solarize)
    if rows.size:
        index, levels = _on(made, rows), made.flatten(0, 1)
        part = levels.index_select(0, index)
        levels.index_copy_(0, index, torch.where(part >= solarize_threshold, 255 - part, part))
    return made


def _resize(
    images: PackedImages, params: CropParams, made: UInt8[Tensor, "crops batch 3 size size"]
) -> None:
    """Resize as Pillow does: first across, then down, with whole levels in between."""
    crops, _, _, size, _ = made.shape
    count = len(params.top)
    starts, widths = np.tile(images.starts, crops), np.tile(images.sizes[:, 1], crops)
    top, left, height, width = (
        getattr(params, name).astype(np.int64) for name in ("top", "left", "height", "width")
    )
    room = height * size  # of one channel in between
    between = np.cumsum(3 * room) - 3 * room
    between_pixels = made.new_empty(int(3 * room.sum()))
    line = 3 * widths.astype(np.int64)
    box = starts + top * line + 3 * left
    one, whole = np.ones(count, np.int64), np.full(count, size)
    across = (box, width, height, line, one, between, room, params.flip)
    down = (between, height, whole, one, room, np.arange(count) * 3 * size**2, whole**2, 0 * one)
    longest = int(height.max())
    for fields, lines, source, target in (
        (across, longest, images.pixels, between_pixels),
        (down, size, between_pixels, made),
    ):
        table = np.stack([field.astype(np.int64) for field in fields], axis=1)
        grid = (count, triton.cdiv(lines, _LINES), triton.cdiv(size, _OUTPUTS))
        _resample[grid](
            source,
            target,
            _on(made, table),
            across=fields is across,
            size=size,
            lines_at_once=_LINES,
            outputs_at_once=_OUTPUTS,
            enable_fp_fusion=True,
        )


def _jitter(made: UInt8[Tensor, "crops batch 3 size size"], params: CropParams) -> None:
    rows = np.flatnonzero(params.jitter | params.grayscale)
    if rows.size == 0:
        return
    order = np.where(params.jitter[:, None], params.jitter_order, np.int8(_NO_OPERATION))
    factors = params.jitter_factors.copy()
    # Pillow adds the turn to bytes: a whole number of 255ths.
    factors[:, 3] = np.trunc(factors[:, 3].astype(np.float64) * 255) % 256
    _colour[(rows.size,)](
        made,
        _on(made, rows.astype(np.int64)),
        _on(made, order[rows].astype(np.int32)),
        _on(made, factors[rows]),
        _on(made, params.grayscale[rows].astype(np.int32)),
        count=made.shape[-1] ** 2,
        block=_PIXELS,
        enable_fp_fusion=False,  # what is cut to whole levels is rounded where Pillow rounds
    )


def _blur_some(made: UInt8[Tensor, "crops batch 3 size size"], params: CropParams) -> None:
    rows = np.flatnonzero(params.blur_sigma > 0)
    if rows.size == 0:
        return
    size = made.shape[-1]
    bands = _blur_bands(params.blur_sigma[rows], like=made)
    chosen = _on(made, rows.astype(np.int64))
    between = torch.empty(rows.size, 3, size, size, device=made.device)
    grid = (rows.size, triton.cdiv(size**2, _PIXELS))
    for across in (True, False):
        source, target = (made, between) if across else (between, made)
        _blur[grid](
            source,
            target,
            chosen,
            bands,
            bands.shape[1] // 2,
            across=across,
            size=size,
            block=_PIXELS,
            enable_fp_fusion=True,
        )


def _blur_bands(
    sigma: Float32[np.ndarray, " crops"], *, like: Tensor
) -> Float32[Tensor, "crops taps size"]:
    """The diagonals of each blur's matrix that are not zero: ``[tap, place]``, 0 off the edge."""
    size = like.shape[-1]
    reach = min(blur_reach(float(sigma.max())), size - 1)
    # Between the edges all places have the weights of the middle of a short line.
    line = min(size, 2 * reach + 1)
    padded = torch.nn.functional.pad(blur_matrix(_on(like, sigma), line), (reach, reach))
    # Row p of the padded matrix begins with the diagonals of place p: at p * (width + 1) in memory.
    shape, strides = (len(sigma), 2 * reach + 1, line), (padded.stride(0), 1, padded.stride(1) + 1)
    places = np.arange(size)
    rows = np.maximum(np.minimum(places, reach), places - (size - line))
    return padded.as_strided(shape, strides).index_select(2, _on(like, rows))


def _on(like: Tensor, values: Shaped[np.ndarray, "*any"]) -> Tensor:
    """Copy host numbers to the device of a tensor, without synchronisation."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device, non_blocking=True)


# no_type_check keeps type checkers that wrap functions away from what Triton has to compile.


@triton.jit
@no_type_check
def _resample(
    source,
    target,
    table,
    across: tl.constexpr,
    size: tl.constexpr,
    lines_at_once: tl.constexpr,
    outputs_at_once: tl.constexpr,
):
    """Resize lines of one crop by an antialiased bicubic filter; see device_crops.resize_weights.

    A row of the table: where the box begins, its length along the axis, its lines, bytes from line
    to line and from channel to channel; where the result begins, bytes from channel to channel;
    whether to mirror it.
    """
    row = table + tl.program_id(0) * _FIELDS
    length = tl.load(row + 1).to(tl.int32)
    lines = tl.load(row + 2).to(tl.int32)
    channel, made_channel = tl.load(row + 4), tl.load(row + 6)
    first_line = tl.program_id(1) * lines_at_once
    if first_line < lines:
        line = first_line + tl.arange(0, lines_at_once)[:, None]
        output = tl.program_id(2) * outputs_at_once + tl.arange(0, outputs_at_once)[None, :]
        if across:
            tap_step, lines_at, made_at = 3, line * tl.load(row + 3), line * size + output
        else:
            tap_step, lines_at, made_at = size, line.to(tl.int64), output * size + line
        pixels, made = source + tl.load(row) + lines_at, target + tl.load(row + 5) + made_at
        is_line = line < lines
        scale = length.to(tl.float32) / size
        wide = tl.maximum(scale, 1.0)
        place = tl.minimum(output, size - 1).to(tl.float32) + 0.5
        place = tl.where(tl.load(row + 7) != 0, size - place, place)
        center = place * scale
        first = tl.floor(center - 2 * wide).to(tl.int32)
        total = tl.zeros((1, outputs_at_once), tl.float32)
        red = tl.zeros((lines_at_once, outputs_at_once), tl.float32)
        green = tl.zeros((lines_at_once, outputs_at_once), tl.float32)
        blue = tl.zeros((lines_at_once, outputs_at_once), tl.float32)
        for tap in range((4 * wide).to(tl.int32) + 2):
            at = first + tap
            inside = (at >= 0) & (at < length)
            distance = tl.abs(at.to(tl.float32) + 0.5 - center) / wide
            outer, inner = tl.maximum(2 - distance, 0.0), tl.maximum(1 - distance, 0.0)
            weight = outer * outer * (outer - 1) / 2 + inner * inner * (1 - 2 * inner)
            weight = tl.where(inside, weight, 0.0)
            taken, mask = pixels + at * tap_step, inside & is_line
            total += weight
            one, two, three = _loaded(taken, channel, mask)
            red, green, blue = red + weight * one, green + weight * two, blue + weight * three
        red, green, blue = _byte(red / total), _byte(green / total), _byte(blue / total)
        _store(made, made_channel, is_line & (output < size), red, green, blue)


@triton.jit
@no_type_check
def _colour(crops, chosen, orders, factors, grays, count: tl.constexpr, block: tl.constexpr):
    """Jitter and gray one crop in place."""
    program = tl.program_id(0)
    crop = crops + tl.load(chosen + program) * 3 * count
    order, factor, gray = orders + program * 4, factors + program * 4, tl.load(grays + program)
    split = 4  # the contrast needs the mean of what the operations before it leave
    for turn in range(4):
        if tl.load(order + turn) == _CONTRAST:
            split = turn
    mean = 0.0
    if split < 4:
        total = tl.zeros((block,), tl.int32)
        for start in range(0, count, block):
            place = start + tl.arange(0, block)
            mask = place < count
            red, green, blue = _loaded(crop + place, count, mask)
            for turn in range(split):
                red, green, blue = _turned(tl.load(order + turn), factor, mean, red, green, blue)
            total += tl.where(mask, _luma(red, green, blue).to(tl.int32), 0)
        mean = tl.floor(tl.sum(total).to(tl.float32) / count + 0.5)
    for start in range(0, count, block):
        place = start + tl.arange(0, block)
        mask = place < count
        red, green, blue = _loaded(crop + place, count, mask)
        for turn in range(4):
            red, green, blue = _turned(tl.load(order + turn), factor, mean, red, green, blue)
        if gray != 0:
            red = _luma(red, green, blue)
            green, blue = red, red
        _store(crop + place, count, mask, red.to(tl.uint8), green.to(tl.uint8), blue.to(tl.uint8))


@triton.jit
@no_type_check
def _turned(kind, factor, mean, red, green, blue):
    """One operation of the jitter, the same for all pixels of the crop."""
    if kind == _HUE:
        red, green, blue = _hue_turned(tl.load(factor + _HUE), red, green, blue)
    elif kind >= 0:
        by = tl.load(factor + kind)
        start = tl.zeros_like(red)
        if kind == _CONTRAST:
            start += mean
        if kind == _SATURATION:
            start = _luma(red, green, blue)
        red, green, blue = _blend(start, red, by), _blend(start, green, by), _blend(start, blue, by)
    return red, green, blue


@triton.jit
@no_type_check
def _hue_turned(steps, red, green, blue):
    """Turn the hue in HSV of 8 bits; colour.adjust_hue says how."""
    high = tl.maximum(tl.maximum(red, green), blue)
    chroma = high - tl.minimum(tl.minimum(red, green), blue)
    saturation = tl.floor(tl.div_rn(chroma * 255, tl.maximum(high, 1.0)))
    lead = tl.where(green == high, blue - red, red - green)
    base = tl.where(green == high, 2.0, 4.0)
    lead = tl.where(red == high, green - blue, lead)
    base = tl.where(red == high, 0.0, base)
    sign = tl.where(lead >= 0, 1.0, -1.0)
    short = tl.div_rn(chroma - tl.abs(lead), tl.maximum(chroma, 1.0))
    share = tl.div_rn(base + sign - sign * short, tl.full((1,), 6.0, tl.float32))
    share = tl.where(share < 0, share + 1, share)
    hue = tl.floor(share * 255) + steps
    place = tl.where(hue >= 256, hue - 256, hue) * 6
    depth = high * saturation
    return (
        _faded(high, depth, 510 - tl.abs(place - 765)),
        _faded(high, depth, tl.abs(place - 510) - 255),
        _faded(high, depth, tl.abs(place - 1020) - 255),
    )


@triton.jit
@no_type_check
def _faded(high, depth, loss):
    loss = tl.minimum(tl.maximum(loss, 0.0), 255.0)
    return tl.floor(high + 0.5 - depth * loss * _PER_DEPTH)


@triton.jit
@no_type_check
def _blend(start, level, factor):
    mixed = start + factor * (level - start)
    return tl.floor(tl.minimum(tl.maximum(mixed, 0.0), 255.0))


@triton.jit
@no_type_check
def _luma(red, green, blue):
    return tl.floor(red * _LUMA_RED + green * _LUMA_GREEN + blue * _LUMA_BLUE + 0.5)


@triton.jit
@no_type_check
def _byte(value):
    """The nearest level; of two, the even one, as everywhere."""
    return ((tl.minimum(tl.maximum(value, 0.0), 255.0) + _ROUNDER) - _ROUNDER).to(tl.uint8)


@triton.jit
@no_type_check
def _blur(
    source,
    target,
    chosen,
    bands,
    reach,
    across: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
):
    """Blur pixels of one crop along an axis: across from bytes to floats, down to bytes again."""
    program = tl.program_id(0)
    crop = tl.load(chosen + program) * 3 * size * size
    between = program.to(tl.int64) * 3 * size * size
    pixel = tl.program_id(1) * block + tl.arange(0, block)
    is_pixel = pixel < size * size
    if across:
        place, step, read, write = pixel % size, 1, source + crop, target + between
    else:
        place, step, read, write = pixel // size, size, source + between, target + crop
    band = bands + program.to(tl.int64) * (2 * reach + 1) * size + place
    red = tl.zeros((block,), tl.float32)
    green = tl.zeros((block,), tl.float32)
    blue = tl.zeros((block,), tl.float32)
    for tap in range(2 * reach + 1):
        at = place + tap - reach
        mask = is_pixel & (at >= 0) & (at < size)
        share = tl.load(band + tap * size, mask, 0)
        taken = read + pixel + (tap - reach) * step
        one, two, three = _loaded(taken, size * size, mask)
        red, green, blue = red + share * one, green + share * two, blue + share * three
    if across:
        _store(write + pixel, size * size, is_pixel, red, green, blue)
    else:
        _store(write + pixel, size * size, is_pixel, _byte(red), _byte(green), _byte(blue))


@triton.jit
@no_type_check
def _loaded(place, channel, mask):
    """The three channels of pixels as floats."""
    red = tl.load(place, mask, 0).to(tl.float32)
    green = tl.load(place + channel, mask, 0).to(tl.float32)
    blue = tl.load(place + 2 * channel, mask, 0).to(tl.float32)
    return red, green, blue


@triton.jit
@no_type_check
def _store(place, channel, mask, red, green, blue):
    """Write the three channels of pixels."""
    tl.store(place, red, mask)
    tl.store(place + channel, green, mask)
    tl.store(place + 2 * channel, blue, mask)
