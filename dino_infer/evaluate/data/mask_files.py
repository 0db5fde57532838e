"""One file of a ground-truth mask as labels: palette, grey and 1-bit PNGs alike."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32
from PIL import Image

from dino_infer.choices import MaskMeaning
from dino_infer.errors import ImageError, first_line
from dino_infer.images.read import file_bytes, image_size

VOID = -1
"""Label of pixels that count neither as right nor as wrong."""

LOSSLESS = ("PNG", "BMP", "GIF")
WHITE, WHITE_16 = 255, 65_535


class MaskLevels(NamedTuple):
    """Levels of a mask file as they are stored."""

    levels: Int32[np.ndarray, "height width"]
    """Indices of a palette, or grey levels."""
    white: int
    """The highest level that the file can hold."""

    def labels(self, meaning: MaskMeaning) -> Int32[np.ndarray, "height width"]:
        """Labels: 0 for the background, ``VOID`` for void, and from 1 on for objects or classes.

        Args:
            meaning: As foreground, levels above the middle are label 1, all others background.
        """
        if meaning == "foreground":
            return (self.levels > self.white // 2).astype(np.int32)
        return np.where(self.levels == self.white, VOID, self.levels).astype(np.int32)


def read_mask(path: Path, *, name: str | None = None) -> MaskLevels:
    """The levels of one mask file.

    Args:
        path: A PNG, BMP or GIF file. Colours count only where they are greys: in a palette of
            other colours the index is the level.
        name: Name of the mask in errors; by default the path.

    Raises:
        ImageError: It cannot be read, is a JPEG, or holds colours or transparency.
    """
    name = str(path) if name is None else name
    data = file_bytes(path, name=name)
    image_size(data, name)  # refuses what is damaged or too large by its header
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in LOSSLESS:
                raise ImageError(
                    name,
                    "unsupported",
                    f"is a {image.format}, which may change labels; save masks as PNG",
                )
            return _levels(image, name)
    except ImageError:
        raise
    except Exception as error:  # decoders meet damaged bytes with errors of any type
        raise ImageError(name, "corrupt", f"has damaged pixels: {first_line(error)}") from error


def _levels(image: Image.Image, name: str) -> MaskLevels:
    if image.mode == "1":
        return MaskLevels(np.asarray(image).astype(np.int32) * WHITE, WHITE)
    if image.mode == "L":
        return MaskLevels(np.asarray(image).astype(np.int32), WHITE)
    if image.mode == "P":
        return MaskLevels(_indices(image), WHITE)
    if image.mode.startswith("I"):
        return MaskLevels(np.asarray(image).astype(np.int32), WHITE_16)
    if image.mode in ("LA", "RGB", "RGBA"):
        return MaskLevels(_grey(np.asarray(image), image.mode, name), WHITE)
    raise ImageError(name, "unsupported", f"has pixels of mode {image.mode!r}; save masks as grey")


def _indices(image: Image.Image) -> Int32[np.ndarray, "_height _width"]:
    """Indices of the palette, or its greys, because tools number those in any order."""
    indices = np.asarray(image).astype(np.int32)
    colors = np.array(image.getpalette("RGB") or [], np.int32).reshape(-1, 3)
    if len(colors) <= indices.max(initial=0) or (colors != colors[:, :1]).any():
        return indices
    greys: np.ndarray = colors[indices, 0]
    return greys


def _grey(pixels: np.ndarray, mode: str, name: str) -> Int32[np.ndarray, "_height _width"]:
    if mode.endswith("A"):
        if (pixels[..., -1] != WHITE).any():
            reason = "has transparent pixels; save masks as grey or with a palette"
            raise ImageError(name, "unsupported", reason)
        pixels = pixels[..., :-1]
    if (pixels != pixels[..., :1]).any():
        reason = "holds RGB colours; save the labels as grey levels or with a palette"
        raise ImageError(name, "unsupported", reason)
    return pixels[..., 0].astype(np.int32)


class MaskScan:
    """Reads all masks of a set once, and finds the meaning of their levels."""

    MANY = 32
    """Levels between black and white from which on a mask is taken for a grey picture."""

    def __init__(self) -> None:
        self._masks = 0
        self._black_and_white = 0
        self._with_both = 0
        self._soft: list[str] = []
        self._grey: str | None = None

    def add(self, mask: MaskLevels, name: str) -> None:
        """Count one mask."""
        pixels = np.bincount(mask.levels.ravel(), minlength=mask.white + 1)
        between, white = pixels[1 : mask.white], pixels[mask.white]
        levels = np.count_nonzero(between)
        self._masks += 1
        self._black_and_white += levels == 0
        if levels and white:
            self._with_both += 1
            if white > between.sum():  # soft edges are a rim of white, void is one of labels
                self._soft.append(name)
            if levels > self.MANY and pixels[0]:
                self._grey = self._grey or name

    def meaning(self, refuse: Callable[[str], Exception]) -> MaskMeaning:
        """``foreground`` where all masks are black and white, else ``labels``.

        Args:
            refuse: Function that makes an error of a reason.
        """
        if self._black_and_white == self._masks:
            return "foreground"
        if doubt := self.doubt():
            raise refuse(
                f"{doubt}; if they are soft edges of one object pass `levels='foreground'`, else "
                "`levels='labels'`"
            )
        if 2 * self._black_and_white > self._masks:
            raise refuse(
                f"{self._black_and_white} of {self._masks} masks are black and white, the others "
                "hold more levels; if 255 marks the object pass `levels='foreground'`, if it is "
                "void `levels='labels'`"
            )
        return "labels"

    def doubt(self) -> str:
        """Why the levels between black and white may be soft edges; "" where they are labels."""
        if self._grey is not None:
            return f"{self._grey!r} holds 0, 255 and more than {self.MANY} levels between"
        if 2 * len(self._soft) > self._with_both:
            return (
                f"{len(self._soft)} of {self._masks} masks, such as {self._soft[0]!r}, hold more "
                "pixels of 255 than of the levels between 0 and 255"
            )
        return ""
