"""Bytes that worker processes and the main process see without copying them.

A worker's tensors have to be in shared memory before the main process can see them. Fresh pages of
it cost more time than filling them, so a worker takes the same rooms again once they are free.
"""

import functools

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import get_worker_info

_SLOTS = 64  # rooms of one worker; a consumer that hoards more batches gets fresh memory
_SPARE = 1.25  # so that a slightly larger batch still fits


class Lease:
    """Keeps a room from being taken again while whoever received it still has this object."""

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
    """Those of this process."""
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
