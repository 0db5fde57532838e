"""A folder of files as they lie in real collections: odd, broken and hostile ones."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 30, 40
PICTURE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def write_odd_files(folder: Path) -> dict[str, str]:
    """Fill a folder, and say what becomes of each image that a listing finds in it.

    Returns:
        By name: "ok", or the kind of its ``ImageError``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {}
    groups = {"ok": good(), "corrupt": broken(), "too_large": bombs()}
    groups |= {"empty": {"empty.jpg": b""}.items(), "unsupported": other_files()}
    for outcome, files in groups.items():
        for name, data in files:
            with open(os.path.join(os.fsencode(folder), os.fsencode(name)), "wb") as file:
                file.write(data)
            outcomes[name] = outcome
    return outcomes | write_links(folder)


def write_links(folder: Path) -> dict[str, str]:
    """Links that lead nowhere, and what is no file at all."""
    os.mkfifo(folder / "pipe.jpg")  # not listed
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(as_file("PNG"))
    (folder / "folder.jpg" / "back").symlink_to(folder)
    links = {"broken link.jpg": "gone.jpg", "link to itself.jpg": "link to itself.jpg"}
    links |= {"link to a pipe.jpg": "pipe.jpg", "link to a device.jpg": "/dev/zero"}
    links |= {"link to a picture.jpg": "picture.jpg"}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    outcomes = dict.fromkeys(links, "missing")
    outcomes |= {"link to itself.jpg": "unreadable", "link to a picture.jpg": "ok"}
    return outcomes | {"folder.jpg/inside.png": "ok"}


def good() -> Iterator[tuple[str, bytes]]:
    """Files that show a picture, usual or not."""
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000"):
        yield f"picture.{SUFFIXES.get(kind, kind.lower())}", as_file(kind)
    yield "a png.jpg", as_file("PNG")
    for mode in ("CMYK", "L", "YCbCr"):  # Pillow writes CMYK inverted, as Adobe does
        yield f"{mode}.jpg", as_file("JPEG", mode=mode)
    for mode in ("1", "L", "LA", "P", "RGBA"):
        yield f"{mode}.png", as_file("PNG", mode=mode)
    yield "palette with alpha.png", as_file("PNG", mode="P", transparency=bytes(range(200)))
    deep = Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)
    yield "16 bits.png", as_file("PNG", image=deep)
    yield "16 bits.tif", as_file("TIFF", image=deep)
    frames = {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT), "red")] * 3}
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        yield f"frames.{SUFFIXES.get(kind, kind.lower())}", as_file(kind, **frames)
    for width, height in ((1, 1), (1, 30_000), (30_000, 1)):
        yield (
            f"{width} x {height}.png",
            as_file("PNG", image=Image.new("RGB", (width, height))),
        )
    turned = Image.Exif()
    turned[0x0112] = 6
    yield "turned.jpg", as_file("JPEG", exif=turned)
    for name in ("new\nline.jpg", "😀 ü.jpg", os.fsdecode(b"caf\xe9.jpg"), "-o 'quote\".jpg"):
        yield name, as_file("JPEG")
    yield "100,000 frames.gif", gif_of_many_frames(100_000)
    yield "100,000 pages.tif", tiff_of_many_pages(100_000)
    yield "flat but not too large.png", as_file("PNG", image=Image.new("RGB", (2800, 2800)))
    yield "flat but not too large.webp", flat_webp(1800)


def broken() -> Iterator[tuple[str, bytes]]:
    """Files that once showed a picture, or pretend to."""
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000"):
        data = as_file(kind)
        suffix = SUFFIXES.get(kind, kind.lower())
        yield f"truncated.{suffix}", data[: len(data) * 6 // 10]
        yield f"only a header.{suffix}", data[:24]
    profile = b"name\0\0" + zlib.compress(bytes(100 << 20))
    yield "profile bomb.png", png_with(b"iCCP", profile)
    yield "text bomb.png", png_with(b"zTXt", *[b"key\0\0" + zlib.compress(bytes(1 << 20))] * 200)
    yield "overlapping tags.tif", tiff_with_overlapping_tags(1000, 300_000)
    exif = b"Exif\0\0" + tiff_with_overlapping_tags(2500, 30_000)
    jpeg, segment = as_file("JPEG"), b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    yield "overlapping exif.jpg", jpeg[:2] + segment + jpeg[2:]
    yield "overlapping exif in parts.jpg", jpeg[:2] + 8 * segment + jpeg[2:]
    yield "overlapping exif.png", png_with(b"eXIf", exif[6:])


def bombs() -> Iterator[tuple[str, bytes]]:
    """Small files that would fill the memory, or take minutes."""
    for side in (9_000, 12_000, 20_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        yield f"header of {side} x {side}.png", png([(b"IHDR", header), (b"IDAT", b"")])
    yield "13,000 x 13,000.png", grey_png(13_000, 13_000, bits=1)
    yield "10,000 x 10,000.png", grey_png(10_000, 10_000, bits=8)
    yield "30,000 x 30,000.ppm", b"P6 30000 30000 255\n" + bytes(100)
    yield "30,000 x 30,000.bmp", bitmap_header(30_000, 30_000)
    yield "60,000 x 60,000.gif", b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + gif_frame()
    yield "2,500 x 2,500.webp", flat_webp(2500)
    yield "1,000 scans.jpg", jpeg_of_many_scans(1000)
    yield "large tiles.tif", tiff_of_large_tiles(8000)


def other_files() -> Iterator[tuple[str, bytes]]:
    """What is called an image and is none."""
    yield "text.jpg", b"just some words\n" * 10
    yield "page.png", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "zeros.jpg", bytes(5000)
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    yield "drawing.gif", b'<svg xmlns="http://www.w3.org/2000/svg"/>'


SUFFIXES = {"JPEG": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}


def as_file(kind: str, *, image: Image.Image | None = None, mode: str = "RGB", **options) -> bytes:
    """A picture as a file."""
    image = Image.fromarray(PICTURE).convert(mode) if image is None else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in [*chunks, (b"IEND", b"")]:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        parts += [struct.pack(">I", len(body)), kind, body, checksum]
    return b"".join(parts)


def grey_png(width: int, height: int, *, bits: int = 8) -> bytes:
    """A black picture, as small as it can be."""
    row = bytes(1 + (width * bits + 7) // 8)
    deflate = zlib.compressobj(9)
    pixels = b"".join([deflate.compress(row) for _ in range(height)]) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", pixels)])


def flat_webp(side: int) -> bytes:
    return as_file("WEBP", image=Image.new("RGB", (side, side)), lossless=True)


def png_with(kind: bytes, *bodies: bytes) -> bytes:
    """A good picture with more chunks before its pixels."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    extra = [(kind, body) for body in bodies]
    return png([(b"IHDR", header), *extra, (b"IDAT", zlib.compress(bytes(2)))])


def gif_frame() -> bytes:
    """A 1 x 1 frame after the flags that say there is no palette."""
    return b"\0\0\0" + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0;"


def gif_of_many_frames(count: int) -> bytes:
    two_frames = as_file("GIF", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))])
    control = b"!\xf9\x04\0\0\0\0\0"
    frame = control + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return two_frames[:-1] + frame * (count - 2) + b";"


def tiff(tags: list[tuple[int, int, int, int]], pixels: bytes, *, behind: bytes = b"") -> bytes:
    """A little-endian TIFF of (tag, type, count, value); its pixels begin at byte 8."""
    pixels += bytes(len(pixels) % 2)
    start = 8 + len(pixels)
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    following = start + 2 + len(entries) + 4 if behind else 0
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", start) + pixels + directory + behind


def grey_tags(width: int, height: int) -> list[tuple[int, int, int, int]]:
    short = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 277: 1, 278: height}
    long = {273: 8, 279: width * height}
    return [(t, 3, 1, v) for t, v in short.items()] + [(t, 4, 1, v) for t, v in long.items()]


def tiff_of_many_pages(count: int) -> bytes:
    """The first page is a picture, the others a chain of nearly empty directories."""
    tags = grey_tags(4, 4)
    first = 8 + 16 + 2 + 12 * len(tags) + 4
    pages = [
        struct.pack("<HHHIII", 1, 256, 4, 1, 4, first + 18 * (page + 1)) for page in range(count)
    ]
    return tiff(tags, bytes(16), behind=b"".join(pages))


def tiff_with_overlapping_tags(count: int, size: int) -> bytes:
    """Each of many tags claims the same bytes."""
    overlapping = [(40_000 + number, 7, size, 0) for number in range(count)]
    return tiff(grey_tags(1, 1) + overlapping, bytes(size))


def tiff_of_large_tiles(side: int) -> bytes:
    """A small picture cut from a tile of many pixels."""
    tile = zlib.compress(bytes(side * side))
    tags = [(t, 3, 1, v) for t, v in {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1}.items()]
    tags += [(322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8), (325, 4, 1, len(tile))]
    return tiff(tags, tile)


def jpeg_of_many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    jpeg = as_file("JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * count + jpeg[-2:]


def bitmap_header(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + header + bytes(100)
