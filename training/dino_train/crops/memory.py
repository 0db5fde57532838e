"""Decoded images of unequal sizes, one behind the other in one tensor of bytes."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int32, Int64, UInt8
from torch import Tensor
from torch.utils.data import get_worker_info

_SLOTS = 64  # rooms of one worker; a consumer that hoards more batches gets fresh memory
_SPARE = 1.25  # so that a slightly larger batch still fits


class Lease:
    """Marks a slot of shared memory as taken while its receiver keeps this object."""

    def __init__(self, taken: UInt8[Tensor, " slots"], slot: int) -> None:
        self.taken = taken
        self.slot = slot

    def __reduce__(self) -> tuple[type["Lease"], tuple[Tensor, int]]:
        return _ReceivedLease, (self.taken, self.slot)


class _ReceivedLease(Lease):
    """The lease in the main process: only there its end frees the room."""

    def __del__(self) -> None:
        self.taken[self.slot] = 0


class _Rooms:
    """The rooms of one worker."""

    def __init__(self) -> None:
        self._taken = shared_bytes(_SLOTS).zero_()
        self._rooms: list[Tensor] = [torch.empty(0, dtype=torch.uint8)] * _SLOTS

    def room(self, count: int) -> tuple[UInt8[Tensor, " bytes"], Lease | None]:
        free = (self._taken == 0).nonzero().flatten().tolist()
        if not free:
            return shared_bytes(count), None
        large = [slot for slot in free if len(self._rooms[slot]) >= count]
        slot = large[0] if large else free[0]
        if not large:
            self._rooms[slot] = shared_bytes(int(count * _SPARE))
        self._taken[slot] = 1
        return self._rooms[slot][:count], Lease(self._taken, slot)


@functools.cache
def _rooms() -> _Rooms:
    """Return the shared memory of this process."""
    return _Rooms()


def new_bytes(count: int) -> tuple[UInt8[Tensor, " bytes"], Lease | None]:
    """Uninitialised bytes, in shared memory if this is a worker process of a DataLoader.

    Returns:
        The bytes, and what the batch has to hold as long as the main process looks at them.
    """
    if get_worker_info() is None:
        return torch.empty(count, dtype=torch.uint8), None
    return _rooms().room(count)


def shared_bytes(count: int) -> UInt8[Tensor, " bytes"]:
    """Uninitialised bytes in shared memory, which takes up room only as they are written."""
    # Not share_memory_(), which would copy, and so touch, every byte.
    storage = torch.UntypedStorage._new_shared(max(count, 1))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)[:count]


@dataclass(frozen=True, kw_only=True)
class PackedImages:
    """Upright RGB images without padding between them, on the host or on a device."""

    pixels: UInt8[Tensor, " bytes"]
    starts: Int64[np.ndarray, " batch"]
    """Offset of each image in ``pixels``."""
    sizes: Int32[np.ndarray, "batch 2"]
    """Height and width of each image."""
    lease: Lease | None = None
    """Lease of the shared memory that holds the pixels."""

    def __len__(self) -> int:
        return len(self.starts)

    def select(self, rows: Int64[np.ndarray, " chosen"]) -> "PackedImages":
        """Return a view of the chosen images; no pixel is copied."""
        return replace(self, starts=self.starts[rows], sizes=self.sizes[rows])

    def image(self, row: int) -> UInt8[Tensor, "height width 3"]:
        """A view of one image."""
        height, width = self.sizes[row].tolist()
        start = int(self.starts[row])
        return self.pixels[start : start + 3 * height * width].view(height, width, 3)

    def slot(self, row: int) -> UInt8[np.ndarray, " bytes"]:
        """The bytes of one image on the host, to be written."""
        height, width = self.sizes[row].tolist()
        start = int(self.starts[row])
        slot: np.ndarray = self.pixels.numpy()[start : start + 3 * height * width]
        return slot

    def padded(self) -> UInt8[Tensor, "batch height width 3"]:
        """One tensor with each image in its upper left corner; the rest is not initialised.

        Images of one size that lie one behind the other are a view, and where they lie at
        multiples of their size one gather; others are copied one by one.
        """
        height, width = (int(longest) for longest in self.sizes.max(axis=0))
        own = 3 * height * width
        if (self.sizes == (height, width)).all() and not (self.starts % own).any():
            rows = self.starts // own
            slots = self.pixels[: len(self.pixels) // own * own].view(-1, height, width, 3)
            if (np.diff(rows) == 1).all():
                return slots[rows[0] : rows[0] + len(rows)]
            chosen = torch.from_numpy(rows).to(slots.device, non_blocking=True)
            return slots.index_select(0, chosen)
        room = self.pixels.new_empty(len(self), height, width, 3)
        for row, (own_height, own_width) in enumerate(self.sizes.tolist()):
            room[row, :own_height, :own_width] = self.image(row)
        return room


def room_for(
    sizes: Int32[np.ndarray, "batch 2"], *, device: torch.device | None = None
) -> PackedImages:
    """Room for images of these sizes; on the host, in shared memory if this is a worker process."""
    lengths = 3 * sizes.prod(axis=1, dtype=np.int64)
    count = int(lengths.sum())
    starts = np.cumsum(lengths) - lengths
    if device is not None:
        pixels = torch.empty(count, dtype=torch.uint8, device=device)
        return PackedImages(pixels=pixels, starts=starts, sizes=sizes)
    pixels, lease = new_bytes(count)
    return PackedImages(pixels=pixels, starts=starts, sizes=sizes, lease=lease)


def pack_images(images: Sequence[UInt8[np.ndarray, "_height _width 3"]]) -> PackedImages:
    """Copy images behind each other."""
    packed = room_for(np.array([image.shape[:2] for image in images], dtype=np.int32))
    for row, image in enumerate(images):
        packed.image(row).numpy()[:] = image
    return packed
