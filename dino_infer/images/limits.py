"""Limits on the cost of decoding a file: bombs are refused by their headers, before they go off."""

import numpy as np
from PIL import Image

from dino_infer.errors import ImageError
from dino_infer.images import jpegs

UNQUESTIONED_BYTES = 64 << 20
"""An image that needs no more memory than this is decoded, however small its file is."""

MAX_EXPANSION = 500
"""Bytes of samples for each byte of a file, beyond which a large image counts as a bomb.

Photos reach 50, charts and scanned text 300, and deflated zeros 1,030.
"""

MAX_SCANS = 200
"""Scans of one JPEG; progressive encoders write about 10, and each one costs a full pass."""

MAX_TAG_BYTES = 32 << 20
"""Bytes that tags may claim beyond twice the file: entries may all point to the same bytes."""

# Bytes a pixel at the peak, with the result, as measured; 8 for formats not named.
_DECODER_BYTES = {"WEBP": 20, "AVIF": 16, "JPEG2000": 26, "JPEG": 14, "MPO": 14}

UNQUESTIONED_PIXELS = UNQUESTIONED_BYTES // max(_DECODER_BYTES.values())
"""Pixels that no format needs more memory for than that."""

_SAMPLE_BYTES = {"1": 1 / 8, "L": 1, "P": 1, "LA": 2, "PA": 2, "RGBA": 4, "CMYK": 4, "I": 4, "F": 4}
_PNG_BITS = 24  # where a PNG tells the bits of a sample
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags

_UNIT = np.zeros(1 << 16, dtype=np.int64)  # bytes of one value, by the type of a TIFF tag
_UNIT[1:19] = [1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8]


def check_metadata(data: bytes, path: str) -> None:
    """Refuse tags that would multiply the file in memory; call it before Pillow reads them.

    Raises:
        ImageError: They would.
    """
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_tags(data, path)
    elif jpegs.is_jpeg(data):
        segments = (data[start:end] for _, start, end in jpegs.segments(data))
        blocks = [segment[6:] for segment in segments if segment.startswith(b"Exif\0\0")]
        _check_tags(b"".join(blocks), path)


def check_cost(image: Image.Image, data: bytes, *, path: str, max_pixels: int) -> None:
    """Refuse an opened image that takes too much memory or time to decode.

    Raises:
        ImageError: Too many pixels, too many for so small a file, or too many scans.
    """
    width, height = image.size
    if width * height > max_pixels:
        reason = f"expected at most {max_pixels} pixels, its header says {width} x {height}"
        raise ImageError(path, "too_large", reason)
    is_large = width * height * _DECODER_BYTES.get(image.format or "", 8) > UNQUESTIONED_BYTES
    if is_large and width * height * _sample_bytes(image, data) > MAX_EXPANSION * len(data):
        reason = f"{len(data)} bytes would become {width} x {height} pixels: a decompression bomb?"
        raise ImageError(path, "too_large", f"{reason} Save it smaller or as JPEG to use it")
    if image.format in jpegs.FORMATS:
        _check_scans(data, path)
    elif image.format == "TIFF":
        _check_tiles(image, path, max_pixels)
    _check_exif(image, path)


def _sample_bytes(image: Image.Image, data: bytes) -> float:
    """Bytes a pixel that the file has before it is compressed."""
    if image.format == "PNG" and image.mode in ("L", "P"):
        return data[_PNG_BITS] / 8
    if image.mode.startswith("I;16"):
        return 2
    return _SAMPLE_BYTES.get(image.mode, 3)


def _check_scans(jpeg: bytes, path: str) -> None:
    if jpeg.count(jpegs.SCAN) <= MAX_SCANS:  # fast; a film behind the picture may raise it
        return
    scans = sum(marker == jpegs.SCAN for marker, _, _ in jpegs.segments(jpeg, past_scans=True))
    if scans > MAX_SCANS:
        raise ImageError(path, "too_large", f"expected at most {MAX_SCANS} scans, got {scans}")


def _check_tiles(image: Image.Image, path: str, max_pixels: int) -> None:
    tags = getattr(image, "tag_v2", {})
    width, length = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)
    allowed = max(image.width * image.height, UNQUESTIONED_BYTES // 8)
    if width * length > min(allowed, max_pixels):
        reason = f"tiles of {width} x {length} pixels in an image of {image.width} x {image.height}"
        raise ImageError(path, "too_large", reason)


def _check_exif(image: Image.Image, path: str) -> None:
    exif = image.info.get("exif", b"")
    if isinstance(exif, bytes):
        _check_tags(exif.removeprefix(b"Exif\0\0"), path)
    # The old place for it in a PNG: text of two digits a byte.
    if len(image.info.get("Raw profile type exif", "")) > 1 << 17:
        raise ImageError(path, "corrupt", "its EXIF profile is larger than EXIF can be")


def _check_tags(tiff: bytes, path: str) -> None:
    claimed = _claimed_bytes(tiff)
    if claimed > MAX_TAG_BYTES + 2 * len(tiff):
        reason = f"its tags claim {claimed} bytes of {len(tiff)}: they overlap"
        raise ImageError(path, "corrupt", reason)


def _claimed_bytes(tiff: bytes) -> int:
    """The bytes that the values of the first directory claim together; 0 where there is none."""
    order, is_big = "<" if tiff[:1] == b"I" else ">", tiff[2:4] in (b"+\0", b"\0+")
    number, count = ("u8", "u8") if is_big else ("u4", "u2")
    fields = {"tag": "u2", "kind": "u2", "count": number, "value": number}
    entry = np.dtype([(field, order + kind) for field, kind in fields.items()])
    start = _unsigned(tiff, 8 if is_big else 4, order + number)
    entries = _unsigned(tiff, start, order + count)
    start += int(count[1])
    entries = min(entries, max(0, len(tiff) - start) // entry.itemsize)
    if entries == 0:
        return 0
    table = np.frombuffer(tiff, entry, entries, start)
    counts = np.minimum(table["count"], len(tiff)).astype(np.int64)
    return int(np.minimum(counts * _UNIT[table["kind"]], len(tiff)).sum())


def _unsigned(data: bytes, place: int, kind: str) -> int:
    field = data[place : place + int(kind[2])]
    return int.from_bytes(field, "little" if kind[0] == "<" else "big")
