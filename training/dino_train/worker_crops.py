"""Worker executor: the crops of one image as bytes, where no GPU makes them.

Cut and resize stay in bytes, with the channels last, which is what PyTorch's vectorised kernel
wants; the colours of crops of one size are then changed together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from dino_train.colour import augment_colours
from dino_train.crops import CropParams, CropSpec


@dataclass(frozen=True, kw_only=True)
class WorkerCrops:
    """Finished crops in levels of 0 to 255, of one image or of a batch; normalised later."""

    global_crops: UInt8[Tensor, "2 *batch 3 global_size global_size"]
    local_crops: UInt8[Tensor, "local_crops *batch 3 local_size local_size"] | None

    def pin_memory(self) -> "WorkerCrops":
        """The same crops where a GPU can copy them from without waiting."""
        return WorkerCrops(
            global_crops=self.global_crops.pin_memory(),
            local_crops=None if self.local_crops is None else self.local_crops.pin_memory(),
        )


def make_worker_crops(
    image: UInt8[np.ndarray, "height width 3"], params: CropParams, spec: CropSpec
) -> WorkerCrops:
    """Make all crops of one upright RGB image."""

    def crops_of(columns: slice, size: int) -> UInt8[Tensor, "crops 3 size size"]:
        crops = resized_crops(image, params[columns], size=size).float()
        augment_colours(crops, params[columns], solarize_threshold=spec.solarize_threshold)
        return crops.round_().to(torch.uint8)

    return WorkerCrops(
        global_crops=crops_of(slice(0, 2), spec.global_crops_size),
        local_crops=crops_of(slice(2, None), spec.local_crops_size)
        if spec.local_crops_number
        else None,
    )


def stack_crops(crops: Sequence[WorkerCrops]) -> WorkerCrops:
    """Crops of several images as one batch."""
    local_crops = [one.local_crops for one in crops if one.local_crops is not None]
    return WorkerCrops(
        global_crops=torch.stack([one.global_crops for one in crops], dim=1),
        local_crops=torch.stack(local_crops, dim=1) if local_crops else None,
    )


def resized_crops(
    image: UInt8[np.ndarray, "height width 3"], params: CropParams, *, size: int
) -> UInt8[Tensor, "crops 3 size size"]:
    """Cut, resize (antialiased bicubic) and mirror boxes of one image."""
    whole = torch.from_numpy(image).permute(2, 0, 1)[None]
    made = torch.empty(len(params.top), 3, size, size, dtype=torch.uint8)
    for crop, top, left, height, width, flip in zip(
        made, params.top, params.left, params.height, params.width, params.flip, strict=True
    ):
        box = whole[:, :, top : top + height, left : left + width]
        resized = F.interpolate(box, size=(size, size), mode="bicubic", antialias=True)[0]
        crop.copy_(resized.flip(-1) if flip else resized)
    return made
