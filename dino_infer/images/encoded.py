"""Check and decode one image: any bytes become upright RGB, or an ImageError that says why not."""

import functools
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from dino_infer.errors import ImageError, ImageErrorKind
from dino_infer.images import jpegs, limits, to_rgb, turbo

DEFAULT_MAX_PIXELS = 120_000_000
"""Photos of 100-megapixel cameras and 108-megapixel phones pass: 360 MB of RGB."""

# Only plain pictures: Pillow would also run Ghostscript on a PostScript file named photo.jpg.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000", "PPM")

_PILLOW_MODULES = re.compile(r"PIL\.")


class EncodedImage:
    """An image whose header has been read and lies within the limits; see ``read_image``.

    Attributes:
        data: The content of the file.

    Raises:
        ImageError: Not an image, its header is damaged, or it is beyond a limit.
    """

    def __init__(self, data: bytes, *, path: str, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
        self.data = data
        self._path = path
        self._max_pixels = max_pixels
        self._image: Image.Image | None = None  # not needed for plain JPEGs
        plain = turbo.plain_size(data)
        if plain is None or plain[0] * plain[1] > max_pixels:
            with self._typed_errors():
                self._image = _opened(data, path=path, max_pixels=max_pixels)
        self._plain_size = plain

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """Upright (height, width) in pixels.

        Raises:
            ImageError: The header is damaged behind its beginning.
        """
        if self._image is None:
            assert self._plain_size is not None
            return self._plain_size
        with self._typed_errors():
            image = self._image
            if image.format == "PNG" and "exif" not in image.info and b"eXIf" in self.data:
                image.load()  # it follows the pixels
            width, height = image.size
            # Pillow announces a TIFF upright, and only a TIFF.
            sideways = image.format != "TIFF" and _orientation(image) in to_rgb.SIDEWAYS
            return (width, height) if sideways else (height, width)

    def decoded_size(self, min_scale_size: tuple[int, int] | None) -> tuple[int, int]:
        """Upright (height, width) of what ``pixels`` returns."""
        height, width = self.size
        is_jpeg = self._image is None or self._image.format in jpegs.FORMATS
        by = 1
        if is_jpeg and min_scale_size is not None:
            by = turbo.divisor((height, width), min_scale_size)
        return -(-height // by), -(-width // by)

    def pixels(
        self,
        min_scale_size: tuple[int, int] | None = None,
        *,
        out: UInt8[np.ndarray, " bytes"] | None = None,
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Decode it, once; see ``read_image``.

        Args:
            min_scale_size: Upright (height, width) that suffices.
            out: Room for the pixels, if given: at least as many bytes as they take.

        Raises:
            ImageError: Damaged or truncated.
        """
        if min_scale_size is not None and min(min_scale_size) < 1:
            raise ValueError(f"min_scale_size must be at least (1, 1), got {min_scale_size!r}")
        with self._typed_errors():
            if jpegs.is_jpeg(self.data) and jpegs.has_zeroed_end(self.data):
                reason = "the end of the file is overwritten with zeros"
                raise ImageError(self._path, "corrupt", reason)
            made = self._by_turbo(min_scale_size, out)
            if made is None:
                made = self._by_pillow(min_scale_size)
            if out is None or np.shares_memory(made, out):
                return made
            placed = out[: made.size].reshape(made.shape)
            placed[:] = made
            return placed

    def _by_turbo(
        self, least: tuple[int, int] | None, out: UInt8[np.ndarray, " bytes"] | None
    ) -> UInt8[np.ndarray, "height width 3"] | None:
        """The pixels of a JPEG of colours or greys; None of others and damaged ones."""
        if self._image is None:
            assert self._plain_size is not None
            return turbo.pixels(self.data, self._plain_size, min_scale_size=least, out=out)
        image = self._image
        if image.format not in jpegs.FORMATS or image.mode not in ("RGB", "L"):
            return None
        orientation, size = _orientation(image), (image.height, image.width)
        if orientation == 1:
            return turbo.pixels(self.data, size, min_scale_size=least, out=out)
        if least is not None and orientation in to_rgb.SIDEWAYS:
            least = least[::-1]
        stored = turbo.pixels(self.data, size, min_scale_size=least)
        return None if stored is None else to_rgb.upright(stored, orientation)

    def _by_pillow(self, least: tuple[int, int] | None) -> UInt8[np.ndarray, "height width 3"]:
        if self._image is None:
            self._image = _opened(self.data, path=self._path, max_pixels=self._max_pixels)
        if self._image.format in jpegs.FORMATS and least is not None:
            _draft(self._image, least)
        self._image.load()
        return to_rgb.rgb(self._image, orientation=_orientation(self._image))

    def _typed_errors(self) -> AbstractContextManager[None]:
        return _typed_errors(self.data, path=self._path, max_pixels=self._max_pixels)


def _opened(data: bytes, *, path: str, max_pixels: int) -> Image.Image:
    """The image with its header read, within the limits."""
    _ignore_pillow_warnings()
    limits.check_metadata(data, path)
    limit = Image.MAX_IMAGE_PIXELS  # Pillow warns above it and refuses above its double
    if limit is not None and max_pixels > max(2 * limit, DEFAULT_MAX_PIXELS):
        Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    image = Image.open(io.BytesIO(data), formats=_known_formats())
    limits.check_cost(image, data, path=path, max_pixels=max_pixels)
    return image


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


def _draft(image: Image.Image, min_scale_size: tuple[int, int]) -> None:
    height, width = min_scale_size
    sideways = _orientation(image) in to_rgb.SIDEWAYS
    image.draft(None, (height, width) if sideways else (width, height))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8."""
    try:
        # Not image.getexif(): that of a PNG decodes all pixels to look behind them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        return value if value in range(1, 9) else 1
    except Exception:
        return 1  # metadata of any other program: no reason to lose the picture
