"""Worker executor: the crops of one image as bytes, where no GPU makes them.

Cut and resize stay in bytes, with the channels last, which is what PyTorch's vectorised kernel
wants. Colours are changed by a compiled kernel where numba is installed, else by tensor maths.
"""

import functools
import logging
import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dino_infer.images.turbo import is_fast
from dino_train.crops.colour import augment_colours
from dino_train.crops.memory import Lease, new_bytes
from dino_train.crops.parameters import CropParams
from dino_train.crops.spec import CropSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerCrops:
    """Finished crops of a batch in levels of 0 to 255; normalised later."""

    global_crops: UInt8[Tensor, "2 batch 3 global_size global_size"]
    local_crops: UInt8[Tensor, "local_crops batch 3 local_size local_size"] | None
    lease: Lease | None = None
    """Lease of the shared memory that holds the crops."""

    def pin_memory(self) -> "WorkerCrops":
        """The same crops where a GPU can copy them from without waiting."""
        return WorkerCrops(
            global_crops=self.global_crops.pin_memory(),
            local_crops=None if self.local_crops is None else self.local_crops.pin_memory(),
        )

    def to(self, device: torch.device) -> "WorkerCrops":
        """The same crops on the device."""
        return WorkerCrops(
            global_crops=self.global_crops.to(device, non_blocking=True),
            local_crops=None
            if self.local_crops is None
            else self.local_crops.to(device, non_blocking=True),
            lease=self.lease,
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that lie on the device."""
        both = (self.global_crops, self.local_crops)
        return tuple(one for one in both if one is not None)

    def crops(self, spec: CropSpec) -> tuple[Tensor, Tensor | None]:
        """Global and local crops, in levels."""
        return self.global_crops, self.local_crops


def empty_crops(spec: CropSpec, *, batch_size: int) -> WorkerCrops:
    """Room for the crops of a batch, in shared memory if this is a worker process."""
    shapes = [
        (crops, batch_size, 3, size, size)
        for crops, size in (
            (2, spec.global_crops_size),
            (spec.local_crops_number, spec.local_crops_size),
        )
    ]
    of_globals, of_locals = (math.prod(shape) for shape in shapes)
    room, lease = new_bytes(of_globals + of_locals)
    return WorkerCrops(
        global_crops=room[:of_globals].view(shapes[0]),
        local_crops=room[of_globals:].view(shapes[1]) if of_locals else None,
        lease=lease,
    )


def write_crops(
    batch: WorkerCrops,
    row: int,
    image: UInt8[np.ndarray, "height width 3"],
    params: CropParams,
    spec: CropSpec,
) -> None:
    """Make all crops of one upright RGB image and put them into a row of the batch."""
    _write(batch.global_crops[:, row], image, params[:2], spec)
    if batch.local_crops is not None:
        _write(batch.local_crops[:, row], image, params[2:], spec)


def resized_crops(
    image: UInt8[np.ndarray, "height width 3"], params: CropParams, *, size: int
) -> list[UInt8[np.ndarray, "size size 3"]]:
    """Cut and resize (antialiased bicubic) boxes of one image; nothing is mirrored."""
    boxes = np.stack([params.top, params.left, params.height, params.width], axis=1).tolist()
    return [
        _resized(image[top : top + height, left : left + width], size)
        for top, left, height, width in boxes
    ]


def prepare_executor() -> None:
    """Compile the kernel once, before worker processes start; warn where it is missing.

    The first time on a machine this takes some ten seconds, later about one.
    """
    missing = [] if is_fast() else ["simplejpeg"]
    if _kernel() is None:
        missing.append("numba")
    if missing:
        logger.warning(
            "crops take about twice as long without %s: pip install 'dino-toolkit[fast]'",
            " and ".join(missing),
        )


def _write(
    target: UInt8[Tensor, "crops 3 size size"],
    image: UInt8[np.ndarray, "height width 3"],
    params: CropParams,
    spec: CropSpec,
) -> None:
    resized = resized_crops(image, params, size=target.shape[-1])
    kernel, threshold = _kernel(), spec.solarize_threshold
    if kernel is not None:
        for crop, (pixels, made) in enumerate(zip(resized, target.numpy(), strict=True)):
            kernel.augment(pixels, made, params, crop, solarize_threshold=threshold)
        return
    planes = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
    crops = planes.to(torch.float32, memory_format=torch.contiguous_format)
    flipped = torch.from_numpy(params.flip)
    crops[flipped] = crops[flipped].flip(-1)
    augment_colours(crops, params, solarize_threshold=threshold)
    target.copy_(crops)


def _resized(
    box: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    # Contiguous, with an axis of one in front: only then does PyTorch see, and keep, channels_last.
    pixels = torch.from_numpy(np.ascontiguousarray(box)[None]).permute(0, 3, 1, 2)
    # The operator behind F.interpolate, whose checks take as long as a small crop.
    made = torch.ops.aten._upsample_bicubic2d_aa.default(pixels, (size, size), False, None, None)
    rows: np.ndarray = made.permute(0, 2, 3, 1)[0].numpy()
    return np.ascontiguousarray(rows)


@functools.cache
def _kernel() -> ModuleType | None:
    """The compiled colours, or None without numba."""
    try:
        from dino_train.crops import numba_kernel
    except ImportError:
        return None
    return numba_kernel
