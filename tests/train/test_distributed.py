"""What several processes tell each other, on a CPU with gloo."""

import atexit
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from dino_infer.errors import TrainingError
from dino_train import distributed
from dino_train.distributed import Agreement, PendingMean
from tests.killing import exit_code, forked

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


def start_two(work: Callable[[int], None], store: dist.TCPStore) -> list[multiprocessing.Process]:
    """Processes that do some work as torchrun's would, whose agent keeps this store."""

    def begin(rank: int) -> None:
        torch.set_num_threads(1)
        os.environ.update(
            {"RANK": str(rank), "WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True",
             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
        )  # fmt: skip
        work(rank)

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=begin, args=(rank,)) for rank in range(2)]
    for worker in workers:
        worker.start()
    return workers


def test_processes_meet_again_through_a_store_that_outlives_them():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    replies: Queue = multiprocessing.get_context("fork").Queue()
    for late_s in (0.0, 0.5):  # after the restart, rank 1 asks before rank 0 is there

        def work(rank: int, late_s: float = late_s) -> None:
            time.sleep(0.0 if rank else late_s)
            distributed.start("cpu", timeout_minutes=1)
            replies.put(distributed.mean_over_processes(torch.tensor(float(rank))).item())

        workers = start_two(work, store)
        assert [replies.get(timeout=60) for _ in workers] == [0.5, 0.5]
        for worker in workers:
            worker.join()


def test_a_stopped_process_is_noticed_after_the_timeout():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    replies: Queue = multiprocessing.get_context("fork").Queue()

    def work(rank: int) -> None:
        distributed.start("cpu", timeout_minutes=0.05)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            with distributed.noticing_lost_processes():
                distributed.mean_over_processes(torch.ones(()))
        except TrainingError as error:
            replies.put(str(error))

    workers = start_two(work, store)
    said = replies.get(timeout=60)
    assert said.startswith(
        "process 0 lost another one, which has ended or no longer answers (Timed"
    )
    assert "--max-restarts" in said
    workers[1].kill()
    for worker in workers:
        worker.join()


@pytest.mark.parametrize(
    "words",
    [
        "[/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:1. This is",
        "Application timeout caused pair closure",
    ],
)
def test_what_gloo_says_becomes_a_line_and_the_process_ends_at_once(words: str):
    def work() -> int:
        atexit._clear()  # what the tests have registered
        with pytest.raises(TrainingError) as raised, distributed.noticing_lost_processes():
            raise RuntimeError(words)
        said = re.search(r"\((.*?)\)", str(raised.value))
        assert said and said[1] in words and "gloo" not in said[1]
        atexit._run_exitfuncs()
        return 0

    assert exit_code(forked(work)) == 1


def test_errors_that_are_not_of_the_backend_stay_what_they_are():
    with pytest.raises(RuntimeError, match="out of memory"), distributed.noticing_lost_processes():
        raise RuntimeError("out of memory")
