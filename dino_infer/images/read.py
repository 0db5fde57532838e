"""Images from files and bytes: upright RGB, or an ImageError that says why not."""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from dino_infer import files
from dino_infer.errors import ImageError, ImageErrorKind
from dino_infer.images.encoded import DEFAULT_MAX_PIXELS, EncodedImage

MAX_FILE_BYTES = 2 << 30
"""A larger file is refused unread, so that one whole-slide scan cannot fill the memory."""

# Opening a named pipe would wait for a writer forever; Windows would translate ends of lines.
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".avif"),
    *(".tif", ".tiff", ".bmp", ".dib", ".jp2", ".j2k", ".jpx"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
)
"""Lower-case endings of the file names that count as images."""


@dataclass(frozen=True)
class ImageFailure:
    """Content of an ``ImageError``, as plain data for reports."""

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
        name: Name of the file in errors; the path itself by default.
        max_file_bytes: A larger file is refused unread.

    Raises:
        ImageError: The file is missing, unreadable, empty, or larger than ``max_file_bytes``.
    """
    name = os.fsdecode(path) if name is None else name
    with _typed_os_errors(path, name):
        descriptor = os.open(path, _READ_FLAGS)
        try:
            status = os.fstat(descriptor)
            _check_regular(status, path, name=name)
            check_size(status.st_size, name=name, max_file_bytes=max_file_bytes)
            data = os.read(descriptor, status.st_size)
            while len(data) < status.st_size and (more := os.read(descriptor, status.st_size)):
                data += more  # one call reads 2 GiB at most
        finally:
            os.close(descriptor)
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
    _check_regular(status, path, name=name)
    return status.st_size, status.st_mtime_ns


def _check_regular(status: os.stat_result, path: str | bytes | Path, *, name: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(name, "missing", f"not a regular file: {os.fsdecode(path)!r}")


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
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in it
        raise ImageError(name, "missing", f"no such file: {os.fsdecode(path)!r}") from error
    except OSError as error:
        reason = f"cannot read {os.fsdecode(path)!r}: {error.strerror or error}"
        raise ImageError(name, "unreadable", reason) from error


def load_image(
    path: str | os.PathLike[str],
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> UInt8[np.ndarray, "height width 3"]:
    """Read and decode one image file; see ``read_image``.

    Raises:
        ImageError: The file cannot be read, or as ``read_image``.
        TypeError: ``path`` is no path.
    """
    if not isinstance(path, str | os.PathLike):
        kind = type(path).__name__
        raise TypeError(f"load_image expects a path, got {kind}; read_image decodes bytes")
    data = file_bytes(Path(path), name=os.fspath(path), max_file_bytes=max_file_bytes)
    return read_image(data, path=os.fspath(path), max_pixels=max_pixels)


def read_image(
    data: bytes | bytearray | memoryview,
    *,
    path: str = "image",
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
        path: Name of the image in errors.
        max_pixels: Larger images are refused before any pixel is decoded, and so are large ones
            in so small a file that they are bombs; ``limits`` has the numbers.
        min_scale_size: Upright (height, width) that suffices. A JPEG may then be decoded, faster,
            at 1/2, 1/4 or 1/8 of its size, never below this. None decodes at full size.

    Returns:
        A contiguous, writable array.

    Raises:
        ImageError: Not an image, damaged or truncated, or beyond a limit.
        TypeError: ``data`` is no bytes.
    """
    if not isinstance(data, bytes | bytearray | memoryview):
        kind = type(data).__name__
        raise TypeError(f"read_image expects the bytes of a file, got {kind}; load_image reads one")
    return EncodedImage(bytes(data), path=path, max_pixels=max_pixels).pixels(min_scale_size)


def image_size(data: bytes, path: str, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> tuple[int, int]:
    """Upright (height, width) as the header says, without decoding pixels.

    Raises:
        ImageError: Not an image, its header is damaged, or it is beyond a limit.
    """
    return EncodedImage(data, path=path, max_pixels=max_pixels).size
