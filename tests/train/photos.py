"""Real photos from scikit-image's wheel, and crop parameters that do nothing unless told to."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor

from dino_train.crops.parameters import CropParams, draw_batch
from dino_train.crops.spec import CropSpec

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
LEVELS = 255


def photo(name: str) -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


def as_tensor(picture: Image.Image) -> Tensor:
    """(3, height, width) float levels."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


def as_picture(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def tiles(size: int = 96) -> Tensor:
    """One tile of each photo, (photos, 3, size, size), float levels."""
    return torch.stack(
        [as_tensor(photo(name).crop((60, 40, 60 + size, 40 + size))) for name in PHOTOS]
    )


def neutral_params(*shape: int, **changes: object) -> CropParams:
    """Parameters that cut the upper left pixel and change no colour."""
    zeros, off = np.zeros(shape, np.int32), np.zeros(shape, bool)
    params = CropParams(
        top=zeros,
        left=zeros,
        height=zeros + 1,
        width=zeros + 1,
        flip=off,
        jitter=off,
        jitter_order=np.broadcast_to(np.arange(4, dtype=np.int8), (*shape, 4)),
        jitter_factors=np.broadcast_to(np.float32([1, 1, 1, 0]), (*shape, 4)),
        grayscale=off,
        blur_sigma=np.zeros(shape, np.float32),
        solarize=off,
    )
    return replace(params, **changes)


def draw_crops(
    spec: CropSpec, *, seed: int, epoch: int, index: int, height: int, width: int
) -> CropParams:
    """The parameters of every crop of one image."""
    return draw_batch(spec, seed=seed, keys=[(epoch, index)], sizes=np.array([[height, width]]))[0]


def stack_params(params: Sequence[CropParams]) -> CropParams:
    """Parameters of several images as one, with a new first axis."""
    names = [field.name for field in fields(CropParams)]
    return CropParams(**{name: np.stack([getattr(one, name) for one in params]) for name in names})
