"""Small files that would cost much if they were decoded without a look at their headers."""

import io
import struct
import zlib

from PIL import Image

from tests.app.server.conftest import picture_bytes


def png_bombs():
    """Names and files: one valid PNG of 169 megapixels in 20 kB, and headers that claim more."""
    side = 13_000
    blank = zlib.compress(bytes((side // 8 + 1) * side), 9)
    yield "valid, 169 megapixels", _png(side, side, rows=blank)
    for side in (9_000, 12_000, 20_000, 60_000):
        yield f"header of {side}", _png(side, side)


def other_bombs():
    """Names and files: a long film, and a JPEG that is drawn again and again."""
    frames = [Image.new("L", (64, 64), i % 255) for i in range(400)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    yield "GIF of 400 frames", file.getvalue()
    jpeg = picture_bytes(format="JPEG", progressive=True)
    scan = jpeg.index(b"\xff\xda")
    yield "JPEG of 10,000 scans", jpeg[:-2] + jpeg[scan : scan + 14] * 10_000 + b"\xff\xd9"


def _png(width, height, *, rows=b""):
    """A PNG whose header claims a size, whatever is behind it."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [_chunk(b"IHDR", header), _chunk(b"IDAT", rows), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
