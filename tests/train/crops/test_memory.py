"""Rooms in shared memory: taken again when they are free, and never sooner."""

import gc
import pickle

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dino_infer.embedding.decoding import Loader
from dino_train.crops.memory import Lease, new_bytes
from dino_train.data.loader import unchanged


class Rooms(Dataset[tuple[Tensor, Lease | None, int]]):
    """Each item is a room filled with its own number, and its address in the worker."""

    def __len__(self) -> int:
        return 200

    def __getitems__(self, numbers: list[int]) -> tuple[Tensor, Lease | None, int]:
        room, lease = new_bytes(5000 + numbers[0])
        room.fill_(numbers[0])
        return room, lease, room.data_ptr()


def rooms(**options) -> Loader:
    return Loader(
        Rooms(),
        batch_sampler=[[number] for number in range(200)],
        collate_fn=unchanged,
        generator=torch.Generator(),
        **options,
    )


def test_a_worker_takes_a_few_rooms_again_and_again():
    addresses = set()
    for number, (room, lease, address) in enumerate(rooms(num_workers=1)):
        assert (room == number).all() and len(room) == 5000 + number
        assert isinstance(lease, Lease)
        addresses.add(address)
    assert len(addresses) < 20


@pytest.mark.parametrize(("start_method", "workers"), [("fork", 2), ("spawn", 1)])
def test_rooms_that_are_kept_are_never_overwritten(start_method, workers):
    kept = list(rooms(num_workers=workers, multiprocessing_context=start_method))
    gc.collect()
    for number, (room, _, _) in enumerate(kept):
        assert (room == number).all()
    assert any(lease is None for _, lease, _ in kept)  # more than a worker has slots for


def test_only_the_end_of_a_received_lease_frees_its_room():
    taken = torch.ones(3, dtype=torch.uint8)
    sent = Lease(taken, 1)
    received = sent.__reduce__()[0](taken, 1)
    del sent
    assert taken.tolist() == [1, 1, 1]
    del received
    assert taken.tolist() == [1, 0, 1]


def test_without_workers_there_is_nothing_to_share():
    room, lease = new_bytes(10)
    assert len(room) == 10 and lease is None
    assert len(pickle.dumps(room)) < 2000
