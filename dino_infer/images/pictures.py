"""One picture or many, in whatever form they come, as upright RGB by the rules for files."""

import functools
import io
import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from dino_infer.errors import ImageError
from dino_infer.images import to_rgb
from dino_infer.images.encoded import DEFAULT_MAX_PIXELS
from dino_infer.images.read import MAX_FILE_BYTES, check_size, load_image, read_image

Picture = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | np.ndarray | Image.Image | Tensor
)
"""A path, the bytes of an image file, a Pillow image, or uint8 levels: an array (height, width) or
(height, width, 1, 3 or 4), or a tensor (1, 3 or 4, height, width) as torchvision has it."""

EXPECTED = "a path, the bytes of an image file, a Pillow image, or a uint8 array or tensor"
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA

P = ParamSpec("P")
Result = TypeVar("Result")


def picture_list(pictures: object) -> tuple[list[Any], bool]:
    """One picture or many as a list, and True where it was one.

    Raises:
        TypeError: It is neither a picture nor several.
    """
    if isinstance(pictures, np.ndarray | Tensor) and pictures.ndim > 1:
        one = pictures.ndim < 4
        return ([pictures], True) if one else (list(pictures), False)
    if isinstance(
        pictures, str | os.PathLike | bytes | bytearray | memoryview | Image.Image | Tensor
    ):
        return [pictures], True
    if isinstance(pictures, Iterable) and not isinstance(pictures, Mapping | Set):
        return list(pictures), False
    raise TypeError(f"expected {EXPECTED}, or a list of these, got {_kind(pictures)}")


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as the content of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def rgb_picture(
    picture: Picture,
    *,
    name: str = "picture",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> UInt8[np.ndarray, "height width 3"]:
    """One picture as upright RGB.

    Args:
        picture: Picture in any form of ``Picture``.
        name: Name of the picture in errors; by default a path itself.
        max_pixels: Larger files and bytes are refused before any pixel is decoded.
        max_file_bytes: Larger files and bytes are refused unread.

    Raises:
        ImageError: A file, bytes or a Pillow image cannot be read.
        TypeError: It is no picture.
        ValueError: An array or tensor is of another shape or type.
    """
    if isinstance(picture, str | os.PathLike):
        return load_image(picture, max_pixels=max_pixels, max_file_bytes=max_file_bytes)
    if isinstance(picture, bytes | bytearray | memoryview):
        check_size(memoryview(picture).nbytes, name=name, max_file_bytes=max_file_bytes)
        return read_image(picture, path=name, max_pixels=max_pixels)
    if isinstance(picture, np.ndarray):
        return _of_array(picture, name)
    if isinstance(picture, Tensor):
        return _of_tensor(picture, name)
    if isinstance(picture, Image.Image):
        try:
            return to_rgb.rgb(ImageOps.exif_transpose(picture))
        except (OSError, SyntaxError) as error:  # it was opened, and is read only now
            raise ImageError(name, "corrupt", str(error)) from error
    raise TypeError(f"{name} must be {EXPECTED}, got {_kind(picture)}")


@runtime_checkable
class OneOrMany(Protocol[P, Result]):
    """A function of one picture that also takes a list of them and then gives a list."""

    @overload
    def __call__(self, image: Picture, *args: P.args, **kwargs: P.kwargs) -> Result: ...
    @overload
    def __call__(
        self,
        image: list[Picture] | tuple[Picture, ...],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[Result]: ...


def one_or_many(
    function: Callable[Concatenate[UInt8[np.ndarray, "height width 3"], P], Result],
) -> OneOrMany[P, Result]:
    """Let a function of an upright RGB array take one picture or many, in any form.

    A path names itself in errors, and a picture of many its place, unless ``path`` is given.
    """

    @functools.wraps(function)
    def of_pictures(image: Any, *args: Any, **kwargs: Any) -> Any:
        pictures, one = picture_list(image)
        results = []
        for place, picture in enumerate(pictures):
            name = "image" if one else f"image {place}"
            if isinstance(picture, str | os.PathLike):
                name = os.fspath(picture)
            named = {**kwargs, "path": kwargs.get("path", name)}
            results.append(function(rgb_picture(picture, name=named["path"]), *args, **named))
        return results[0] if one else results

    return of_pictures


def _of_array(picture: np.ndarray, name: str) -> UInt8[np.ndarray, "height width 3"]:
    if picture.dtype != np.uint8:
        raise ValueError(_wrong_levels(picture, name))
    shown = picture[..., None] if picture.ndim == 2 else picture
    if shown.ndim != 3 or shown.shape[2] not in CHANNELS or not shown.size:
        raise ValueError(
            f"{name} must be uint8 of shape (height, width), or (height, width, 1, 3 or 4), "
            f"got {picture.dtype} of shape {tuple(picture.shape)}"
        )
    if shown.shape[2] == 4:
        return to_rgb.rgb(Image.fromarray(np.ascontiguousarray(shown)))
    return shown if shown.shape[2] == 3 else np.repeat(shown, 3, axis=2)


def _of_tensor(picture: Tensor, name: str) -> UInt8[np.ndarray, "height width 3"]:
    if picture.dtype != torch.uint8:
        raise ValueError(_wrong_levels(picture, name))
    array = picture.detach().cpu().numpy()
    if array.ndim == 3 and array.shape[0] in CHANNELS:
        array = array.transpose(1, 2, 0)
    elif array.ndim != 2:
        raise ValueError(
            f"{name} as a tensor must be uint8 of shape (height, width), or (1, 3 or 4, height, "
            f"width), got {picture.dtype} of shape {tuple(picture.shape)}"
        )
    return _of_array(array, name)


def _wrong_levels(picture: np.ndarray | Tensor, name: str) -> str:
    return (
        f"{name} must hold uint8 levels from 0 to 255, got {picture.dtype} of shape "
        f"{tuple(picture.shape)}; scale values from 0 to 1 by 255, round, and convert to uint8"
    )


def _kind(value: object) -> str:
    """Name of a thing that is no picture, for a message."""
    return "None" if value is None else f"{type(value).__name__} {value!r:.60}"
