"""Turn a decoded image into the normalised tensor that a backbone was trained on."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from dino_infer.choices import Crop
from dino_infer.errors import ImageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

SPARE_DECODING = 2  # JPEGs are decoded smaller only with this many times the pixels a side needs

MAX_RESIZED_PIXELS = 1 << 28
"""Most pixels that ``crop="none"`` makes of an image: a 1 x 30,000 strip would take 13 GB."""


@dataclass(frozen=True)
class Preprocess:
    """Resize (bicubic, antialiased), crop, scale to [0, 1] and normalise.

    With ``crop="center"`` and one number this is the evaluation transform of DINO: the shorter
    side becomes ``size * resize_ratio``, then the central square is cut out.
    """

    size: int | tuple[int, int] = 224
    """Pixels of the result: one side, or (height, width). With ``crop="none"`` one number is the
    shorter side, and the longer follows; two numbers are both sides, whatever the aspect was."""

    crop: Crop = "center"
    """Part of the image to keep: the centre, or everything."""

    resize_ratio: float = 256 / 224
    """Size of the image before its centre is cut out, relative to ``size``; at least 1."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean that is subtracted from red, green and blue in [0, 1]."""

    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation that divides the differences."""

    patch_size: int | None = None
    """Cut the bottom and right edge to a multiple of this; only with ``crop="none"``."""

    exact_decode: bool = False
    """Decode every pixel of large JPEGs. By default those of more than twice the size needed are
    decoded at 1/2, 1/4 or 1/8, several times faster and within a level or two on average."""

    def __post_init__(self) -> None:
        if self.crop not in get_args(Crop):
            raise ValueError(f"crop must be one of {get_args(Crop)}, got {self.crop!r}")
        if min(self._sides) < (self.patch_size or 1):
            smallest = f"patch_size = {self.patch_size}" if self.patch_size else "1"
            raise ValueError(f"size must be at least {smallest}, got {self.size!r}")
        if self.patch_size is not None and (self.crop != "none" or self.patch_size < 1):
            raise ValueError(
                'patch_size must be at least 1 and go with crop="none", '
                f"got {self.patch_size!r} with crop={self.crop!r}"
            )
        if self.resize_ratio < 1:
            raise ValueError(f"resize_ratio must be at least 1, got {self.resize_ratio!r}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above 0, got {self.std!r}")

    def __call__(
        self, image: UInt8[np.ndarray, "in_height in_width 3"], *, path: str = "image"
    ) -> Float[Tensor, "3 height width"]:
        """The normalised tensor for one upright RGB image; see ``pixels`` and ``normalized``."""
        return self.normalized(self.pixels(image, path=path))

    def pixels(
        self, image: UInt8[np.ndarray, "in_height in_width 3"], *, path: str = "image"
    ) -> UInt8[Tensor, "3 height width"]:
        """The image resized and cropped.

        Args:
            image: Result of ``read_image``; at least one pixel.
            path: Name of the image in errors.

        Raises:
            ImageError: ``crop="none"`` would make it larger than ``MAX_RESIZED_PIXELS``.
        """
        height, width = self.resized(*image.shape[:2])
        if self.crop == "center":
            crop_height, crop_width = self._sides
            # Rounded half to even, as torchvision's CenterCrop does.
            top, left = round((height - crop_height) / 2), round((width - crop_width) / 2)
        else:
            if height * width > MAX_RESIZED_PIXELS:
                raise ImageError(path, "too_large", _too_elongated(image, height, width))
            patch = self.patch_size or 1
            crop_height, crop_width = height - height % patch, width - width % patch
            top = left = 0
        window = (top, left, crop_height, crop_width)
        return _resized_window(image, (height, width), window)

    def normalized(
        self, pixels: UInt8[Tensor, "*batch 3 height width"]
    ) -> Float[Tensor, "*batch 3 height width"]:
        """Levels as the network wants them, on their device: (x / 255 - mean) / std."""
        mean, std = (
            255 * torch.tensor(values, device=pixels.device)[:, None, None]
            for values in (self.mean, self.std)
        )
        result = torch.empty(pixels.shape, device=pixels.device)
        return result.copy_(pixels).sub_(mean).div_(std)

    @property
    def least_decoded(self) -> tuple[int, int] | None:
        """Upright (height, width) that decoding must not go below; None for exact decoding."""
        if self.exact_decode:
            return None
        ratio = self.resize_ratio if self.crop == "center" else 1
        height, width = (round(side * ratio) * SPARE_DECODING for side in self._sides)
        return height, width

    def as_metadata(self) -> dict[str, Any]:
        """The settings as plain JSON values; ``from_metadata`` reads them back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Preprocess":
        """The settings that ``as_metadata`` wrote.

        Raises:
            ValueError: A name is unknown or a value is out of its range.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(metadata) - known):
            raise ValueError(f"unknown preprocessing {unknown}, expected some of {sorted(known)}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in metadata.items()
        }
        return cls(**values)

    @property
    def _sides(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size of the whole image after resizing."""
        if self.crop == "none" and not isinstance(self.size, int):
            return self.size
        ratio = self.resize_ratio if self.crop == "center" else 1
        least_height, least_width = (round(side * ratio) for side in self._sides)
        # One side becomes exact and the other is truncated, as torchvision's Resize does.
        if least_height * width >= least_width * height:
            return least_height, max(least_width, int(least_height * width / height))
        return max(least_height, int(least_width * height / width)), least_width


def denormalized(
    images: Float[Tensor, "*batch 3 height width"], *, mean: Sequence[float], std: Sequence[float]
) -> UInt8[Tensor, "*batch 3 height width"]:
    """Levels in [0, 255] that were normalised by this mean and standard deviation."""
    shift, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (255 * (images * scale + shift)).round().clamp(0, 255).to(torch.uint8)


def _resized_window(
    image: UInt8[np.ndarray, "in_height in_width 3"],
    resized: tuple[int, int],
    window: tuple[int, int, int, int],
) -> UInt8[Tensor, "3 height width"]:
    """The (top, left, height, width) window of the image after it was resized."""
    top, left, height, width = window
    if resized[0] * resized[1] > 4 * height * width:
        return _pillow_resized_window(image, resized, window)
    if not image.flags.writeable:
        image = image.copy()  # torch would warn that it cannot protect it
    # A (height, width, 3) array is a channels_last tensor, for which torch's uint8 kernel is made.
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    if resized != image.shape[:2]:
        pixels = F.interpolate(pixels, size=resized, mode="bicubic", antialias=True)
    return pixels[0, :, top : top + height, left : left + width]


def _pillow_resized_window(
    image: UInt8[np.ndarray, "in_height in_width 3"],
    resized: tuple[int, int],
    window: tuple[int, int, int, int],
) -> UInt8[Tensor, "3 height width"]:
    """Window of an elongated image, of which nothing else is ever computed."""
    top, left, height, width = window
    y_scale, x_scale = image.shape[0] / resized[0], image.shape[1] / resized[1]
    right = min((left + width) * x_scale, image.shape[1])
    bottom = min((top + height) * y_scale, image.shape[0])
    box = (left * x_scale, top * y_scale, right, bottom)
    part = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(part)).permute(2, 0, 1)


def _too_elongated(image: np.ndarray, height: int, width: int) -> str:
    return (
        f"{image.shape[1]} x {image.shape[0]} pixels would be resized to {width} x {height}, "
        f"expected at most {MAX_RESIZED_PIXELS} pixels: cut it into pieces first"
    )
