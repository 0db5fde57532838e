"""What several processes tell each other, on a CPU with gloo."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

import torch
import torch.distributed as dist

from dino_train.distributed import Agreement, PendingMean

CPU = torch.device("cpu")


def answers(tmp_path: Path, question: Callable[[int], object]) -> list[object]:
    """What ``question(rank)`` returns in each of two processes."""
    context = multiprocessing.get_context("fork")
    replies: Queue = context.Queue()

    def work(rank: int) -> None:
        torch.set_num_threads(1)
        rendezvous = f"file://{tmp_path / 'rendezvous'}"
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
        replies.put((rank, question(rank)))
        dist.destroy_process_group()

    workers = [context.Process(target=work, args=(rank,)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = dict(replies.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    return [found[0], found[1]]


def test_all_processes_stop_one_step_after_the_first_wants_to(tmp_path: Path):
    def question(rank: int) -> list[bool]:
        agreement = Agreement(CPU)
        wishes = [False, rank == 1, rank == 1, True]
        return [agreement.reached(wish) for wish in wishes]

    assert answers(tmp_path, question) == [[False, False, True, True]] * 2


def test_a_process_alone_stops_at_once():
    agreement = Agreement(CPU)
    assert [agreement.reached(wish) for wish in (False, True)] == [False, True]


def test_a_mean_is_of_what_was_given_and_leaves_it_alone(tmp_path: Path):
    def question(rank: int) -> tuple[list[float], list[float]]:
        mine = torch.tensor([float(rank), 4.0])
        pending = PendingMean(mine)
        return pending.value().tolist(), mine.tolist()

    assert answers(tmp_path, question) == [
        ([0.5, 4.0], [0.0, 4.0]),
        ([0.5, 4.0], [1.0, 4.0]),
    ]


def test_the_mean_of_one_process_is_its_own():
    assert PendingMean(torch.tensor([3.0])).value().item() == 3.0
