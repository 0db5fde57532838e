"""Check and decode one image: any bytes become upright RGB, or an ImageError that says why not."""

import functools
import io
import json
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from dino_infer import files, limits, pixel_modes
from dino_infer.errors import ImageError, ImageErrorKind

DEFAULT_MAX_PIXELS = 120_000_000
"""Photos of 100-megapixel cameras and 108-megapixel phones pass: 360 MB of RGB."""

MAX_FILE_BYTES = 2 << 30
"""A larger file is refused unread, so that one whole-slide scan cannot fill the memory."""

# Only plain pictures: Pillow would also run Ghostscript on a PostScript file named photo.jpg.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000", "PPM")

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".avif"),
    *(".tif", ".tiff", ".bmp", ".dib", ".jp2", ".j2k", ".jpx"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
)
"""Lower-case endings of the file names that count as images."""

_PILLOW_MODULES = re.compile(r"PIL\.")


@dataclass(frozen=True)
class ImageFailure:
    """What an ``ImageError`` says, as plain data for reports."""

    path: str
    kind: ImageErrorKind
    reason: str

    @classmethod
    def of(cls, error: ImageError) -> "ImageFailure":
        """The failure that an error stands for."""
        return cls(error.path, error.kind, error.reason)


def write_failures(path: str | Path, failures: Iterable[ImageFailure]) -> None:
    """Write one JSON object a line; an interrupted write leaves the older file as it was."""
    # ASCII escapes carry file names that are no valid UTF-8 through JSON and back.
    lines = [json.dumps(asdict(failure)) + "\n" for failure in failures]
    files.write_bytes(path, "".join(lines).encode("ascii"))


def file_bytes(
    path: str | bytes | Path, *, name: str | None = None, max_file_bytes: int = MAX_FILE_BYTES
) -> bytes:
    """The content of an image file.

    Args:
        path: The file.
        name: What an error calls the file; the path itself by default.
        max_file_bytes: A larger file is refused unread.

    Raises:
        ImageError: The file is missing, unreadable, empty, or larger than ``max_file_bytes``.
    """
    name = os.fsdecode(path) if name is None else name
    size, _ = file_status(path, name=name)
    check_size(size, name=name, max_file_bytes=max_file_bytes)
    with _typed_os_errors(path, name), open(path, "rb") as file:
        data = file.read()
    if not data:
        raise ImageError(name, "empty", "the file has 0 bytes")
    return data


def file_status(path: str | bytes | Path, *, name: str) -> tuple[int, int]:
    """Size in bytes and time of modification in nanoseconds of an image file, unopened.

    Raises:
        ImageError: The file is missing, unreadable, or not a regular file.
    """
    with _typed_os_errors(path, name):
        status = os.stat(path)
    # Opening a named pipe would wait for a writer forever.
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(name, "missing", f"not a regular file: {os.fsdecode(path)!r}")
    return status.st_size, status.st_mtime_ns


def check_size(size: int, *, name: str, max_file_bytes: int) -> None:
    """Refuse an encoded image of more bytes than wanted, before it is read.

    Raises:
        ImageError: It is too large.
    """
    if size > max_file_bytes:
        reason = f"expected at most {max_file_bytes} bytes, got {size}"
        raise ImageError(name, "too_large", reason)


@contextmanager
def _typed_os_errors(path: str | bytes | Path, name: str) -> Iterator[None]:
    location = os.fsdecode(path)
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in it
        raise ImageError(name, "missing", f"no such file: {location!r}") from error
    except OSError as error:
        reason = f"cannot read {location!r}: {error.strerror or error}"
        raise ImageError(name, "unreadable", reason) from error


def load_image(
    path: str | Path, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """Read and decode one image file; see ``read_image``."""
    return read_image(file_bytes(path), path=str(path), max_pixels=max_pixels)


def read_image(
    data: bytes,
    *,
    path: str,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    min_scale_size: tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an image of any format and mode into upright 8-bit RGB.

    The first frame of an animation and the first page of a document count; EXIF orientation is
    applied; transparent pixels are laid on white. Values beyond 8 bits are scaled, not clipped:
    16-bit samples by their full range, 32-bit ones by the smallest of 1 (floats only), 255 and
    65,535 that holds the brightest pixel, else from darkest to brightest. Colour profiles are
    ignored, as in ImageNet training.

    Args:
        data: The content of the file.
        path: What errors call the image.
        max_pixels: Larger images are refused before any pixel is decoded, and so are large ones
            in so small a file that they are bombs; ``limits`` has the numbers.
        min_scale_size: Upright (height, width) that suffices. A JPEG may then be decoded, faster,
            at 1/2, 1/4 or 1/8 of its size, never below this. None decodes at full size.

    Returns:
        A contiguous, writable array.

    Raises:
        ImageError: Not an image, damaged or truncated, or beyond a limit.
    """
    if min_scale_size is not None and min(min_scale_size) < 1:
        raise ValueError(f"min_scale_size must be at least (1, 1), got {min_scale_size!r}")
    with _typed_errors(data, path=path, max_pixels=max_pixels):
        image = _opened(data, path=path, max_pixels=max_pixels)
        limits.check_cost(image, data, path=path, max_pixels=max_pixels)
        if image.format in ("JPEG", "MPO"):
            if _has_zeroed_end(data):
                raise ImageError(path, "corrupt", "the end of the file is overwritten with zeros")
            if min_scale_size is not None:
                _draft(image, min_scale_size)
        image.load()
        return pixel_modes.rgb(image, orientation=_orientation(image))


def image_size(data: bytes, path: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Upright (height, width) as the header says, without decoding pixels.

    Raises:
        ImageError: Not an image, its header is damaged, or it is beyond a limit.
    """
    with _typed_errors(data, path=path, max_pixels=max_pixels):
        image = _opened(data, path=path, max_pixels=max_pixels)
        limits.check_cost(image, data, path=path, max_pixels=max_pixels)
        if image.format == "PNG" and "exif" not in image.info and b"eXIf" in data:
            image.load()  # it follows the pixels
        width, height = image.size
        # Pillow announces a TIFF upright, and only a TIFF.
        sideways = image.format != "TIFF" and _orientation(image) in pixel_modes.SIDEWAYS
        return (width, height) if sideways else (height, width)


def _opened(data: bytes, *, path: str, max_pixels: int) -> Image.Image:
    """The image with its header read; ``max_pixels`` only lifts Pillow's own limit."""
    _ignore_pillow_warnings()
    limits.check_metadata(data, path)
    limit = Image.MAX_IMAGE_PIXELS  # Pillow warns above it and refuses above its double
    if limit is not None and max_pixels > max(2 * limit, DEFAULT_MAX_PIXELS):
        Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    return Image.open(io.BytesIO(data), formats=_known_formats())


@functools.cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _ignore_pillow_warnings() -> None:
    """Damaged metadata and large sizes are judged here, so Pillow need not warn about them.

    The filter stays, because ``warnings.catch_warnings`` is not safe in the threads that decode.
    """
    for category in (UserWarning, Image.DecompressionBombWarning):
        wanted = ("ignore", None, category, _PILLOW_MODULES, 0)
        if wanted not in warnings.filters:
            warnings.filterwarnings("ignore", category=category, module=_PILLOW_MODULES.pattern)


@contextmanager
def _typed_errors(data: bytes, *, path: str, max_pixels: int) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError."""
    try:
        if not data:
            raise ImageError(path, "empty", "the file has 0 bytes")
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        reason = f"expected at most {max_pixels} pixels, its header says more"
        raise ImageError(path, "too_large", reason) from error
    except MemoryError as error:
        raise ImageError(path, "too_large", "not enough memory to decode it") from error
    except UnidentifiedImageError as error:
        raise ImageError(path, *_why_unidentified(data)) from error
    except Exception as error:  # the decoders meet random bytes with errors of any type
        reason = f"damaged pixel data: {error or type(error).__name__}"
        raise ImageError(path, "corrupt", reason) from error


def _why_unidentified(data: bytes) -> tuple[ImageErrorKind, str]:
    head = data[:16].ljust(16, b"\0")  # Pillow looks at fixed places in it
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        return "unsupported", "HEIC is not read here; convert it to JPEG, PNG or AVIF"
    for name in _known_formats():
        accept = Image.OPEN[name][1]
        if accept is not None and accept(head) is True:
            return "corrupt", f"a damaged {name} header, or a layout that Pillow does not read"
    known = ", ".join(sorted(_known_formats()))
    return "unsupported", f"expected an image ({known}), got a file that begins with {head!r}"


def _has_zeroed_end(jpeg: bytes) -> bool:
    """Whether zeros follow the scan where its end marker should be.

    Interrupted copies leave such files at full length, and libjpeg decodes zeros as flat grey.
    """
    return jpeg.endswith(bytes(16)) and jpeg.rfind(b"\xff\xd9") < jpeg.rfind(b"\xff\xda")


def _draft(image: Image.Image, min_scale_size: tuple[int, int]) -> None:
    height, width = min_scale_size
    sideways = _orientation(image) in pixel_modes.SIDEWAYS
    image.draft(None, (height, width) if sideways else (width, height))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8."""
    try:
        # Not image.getexif(): that of a PNG decodes all pixels to look behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return value if value in range(1, 9) else 1
    except Exception:
        return 1  # metadata of any other program: no reason to lose the picture
