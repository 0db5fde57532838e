"""Encoded pictures for the tests of this folder, and what they show."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

LOSSY = 12  # levels that JPEG, WebP and AVIF may be off on flat patches
# Four flat quarters, wider than high, so that every flip and turn of them looks different.
RED, GREEN, BLUE, YELLOW = (200, 30, 30), (30, 180, 40), (20, 40, 190), (210, 200, 30)
QUARTERS = np.zeros((32, 64, 3), dtype=np.uint8)
QUARTERS[:16, :32], QUARTERS[:16, 32:] = RED, GREEN
QUARTERS[16:, :32], QUARTERS[16:, 32:] = BLUE, YELLOW


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_close(got, expected, *, levels):
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= levels


def corners(image):
    """Means of the four quarters, clear of their borders."""
    height, width = image.shape[:2]
    rows = slice(2, height // 2 - 2), slice(height // 2 + 2, height - 2)
    columns = slice(2, width // 2 - 2), slice(width // 2 + 2, width - 2)
    return np.array([image[row, column].mean(axis=(0, 1)) for row in rows for column in columns])


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with_size(width: int, height: int) -> bytes:
    """A tiny file whose header promises many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, int]], pixels: bytes) -> bytes:
    """A one-strip little-endian TIFF of (type, value) tags, pixels at byte 8."""
    directory = struct.pack("<H", len(tags))
    for tag, (kind, value) in sorted(tags.items()):
        directory += struct.pack("<HHII", tag, kind, 1, value)
    pixels += b"\0" * (len(pixels) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


def grey_tiff(samples: bytes, *, width: int, bits: int, photometric: int = 1) -> bytes:
    short, long = 3, 4
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1}
    return tiff(
        {tag: (short, value) for tag, value in tags.items()}
        | {273: (long, 8), 279: (long, len(samples))},
        samples,
    )


TURNED = {  # what a camera stores so that the EXIF orientation shows QUARTERS upright
    1: QUARTERS,
    2: QUARTERS[:, ::-1],
    3: QUARTERS[::-1, ::-1],
    4: QUARTERS[::-1],
    5: QUARTERS.transpose(1, 0, 2),
    6: np.rot90(QUARTERS),
    7: np.rot90(QUARTERS, 2).transpose(1, 0, 2),
    8: np.rot90(QUARTERS, -1),
}
