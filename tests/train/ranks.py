"""Processes that train together as under torchrun, without its seconds of imports."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

import dino_train.pretraining  # noqa: F401 - here, so that every process is a copy that has it
from dino_train.cli import main

_context = multiprocessing.get_context("forkserver")  # its processes have never run autograd
_context.set_forkserver_preload([__name__])


def start_ranks(args: Sequence[str], count: int, *, log: Path) -> list[BaseProcess]:
    """Start ``dino-train`` in so many processes, which write all they say to one file."""
    port = free_port()
    ranks = [
        _context.Process(target=_train, args=(list(args), rank, count, port, log))
        for rank in range(count)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def free_port() -> int:
    """A port of this computer that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _train(args: list[str], rank: int, count: int, port: int, log: Path) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(
        {"RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
         "MASTER_PORT": str(port)}
    )  # fmt: skip
    torch.set_num_threads(1)
    sys.exit(main(args))
