"""Processes and devices: the only file that reads ranks from the environment."""

import atexit
import logging
import os
import random
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dino_infer.devices import LateNumbers, resolved_device
from dino_infer.errors import TrainingError, first_line

logger = logging.getLogger(__name__)

_PORT_KEY = "dino-train/port-of-the-first-process"
_OF_GLOO = re.compile("gloo|pair closure|Operation timed out")  # it has no class of errors
_lost: list[object] = []
"""Groups that a process was lost from: gloo would wait for it while it deletes them."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Process:
    """This process among all that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def local_world_size(self) -> int:
        """Processes on this computer."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    @property
    def is_main(self) -> bool:
        """True if this process writes the files."""
        return self.rank == 0


def start(device: str = "auto", *, timeout_minutes: float = 30.0) -> Process:
    """Join the process group that torchrun describes, or stand alone without one.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; auto takes the GPU of this local
            rank if there is one.
        timeout_minutes: Time that this process waits for the others, here and in each exchange.

    Raises:
        DinoError: The device cannot be used here, or another process does not come.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local_rank)
    if world_size == 1:
        return Process(rank=0, world_size=1, device=chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    rank, timeout = int(os.environ["RANK"]), timedelta(minutes=timeout_minutes)
    with noticing_lost_processes():
        dist.init_process_group(
            backend,
            store=_fresh_store(rank, timeout),
            rank=rank,
            world_size=world_size,
            timeout=timeout,
            device_id=chosen if chosen.type == "cuda" else None,
        )
    return Process(rank=rank, world_size=world_size, device=chosen)


def _fresh_store(rank: int, timeout: timedelta) -> Any:
    """Store through which the processes of one start meet; None leaves it to PyTorch.

    The one that torchrun's agent keeps outlives its workers: after a restart, addresses that those
    before left there would be taken for those of now, and all wait for ever. So the first process
    opens one that ends with it; the others ask the agent's for its port until something answers.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    tcp_store: Any = dist.TCPStore  # type: ignore[attr-defined]
    host = os.environ["MASTER_ADDR"]
    lasting = tcp_store(host, int(os.environ["MASTER_PORT"]), timeout=timeout)
    if rank == 0:
        own = tcp_store(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
        lasting.set(_PORT_KEY, str(own.port))
        return own
    deadline_s = time.monotonic() + timeout.total_seconds()
    port = int(lasting.get(_PORT_KEY))
    while not _answers(host, port) and time.monotonic() < deadline_s:
        time.sleep(0.1)  # it was of a process that has gone: the new one will tell its own
        port = int(lasting.get(_PORT_KEY))
    return tcp_store(host, port, wait_for_workers=False, timeout=timeout)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def noticing_lost_processes() -> Iterator[None]:
    """Say in one line that another process has ended or stopped, which the backend notices.

    NCCL may end this process itself, with a message of its own, before an error comes here.

    Raises:
        TrainingError: A process is lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or _OF_GLOO.search(str(error))):
            raise
        _lost.append(dist.group.WORLD)
        atexit.register(_end)
        raise TrainingError(
            f"process {os.environ.get('RANK')} lost another one, which has ended or no longer "
            f"answers ({_cause(error)}); run the same command again, or let torchrun do so "
            "(--max-restarts): the run goes on from its newest snapshot"
        ) from error


def _cause(error: RuntimeError) -> str:
    """First sentence of what the backend says, without the line of its source in front."""
    return re.sub(r"^\[[^\]]*\] ", "", first_line(error)).partition(". ")[0]


def _end() -> None:
    """End this process without waiting for the lost one; its own end tells the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _device(name: str, local_rank: int) -> torch.device:
    device = resolved_device(name)
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return device


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes; the tensor itself when there is one process."""
    if not dist.is_initialized():
        return value
    total = value.clone()
    dist.all_reduce(total)  # gloo has no AVG, so sum and divide
    return total / dist.get_world_size()


def processes() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


class _MeanToLearnFrom(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return mean_over_processes(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def mean_to_learn_from(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, for a loss that all of them compute from it.

    The gradient passes as it is. A part of N has 1/N of it, and the same loss is differentiated in
    N processes, whose gradients ``data_parallel`` averages: the two factors cancel.
    """
    if not dist.is_initialized():
        return value
    return _MeanToLearnFrom.apply(value)  # type: ignore[no-any-return]


class PendingMean:
    """The mean of a tensor over all processes, which ask in the same order, while work goes on."""

    def __init__(self, value: Tensor) -> None:
        self._total = value
        self._work = None
        if dist.is_initialized():
            self._total = value.clone()
            self._work = dist.all_reduce(self._total, async_op=True)

    def value(self) -> Tensor:
        """The mean; a GPU waits for it, the host does not."""
        if self._work is None:
            return self._total
        self._work.wait()
        return self._total / dist.get_world_size()


class Agreement:
    """Lets all processes stop at the same step, which they learn one step late.

    No call blocks: each starts a new reduction and reads the result of the previous call's. A
    process that trains alone needs no answer and gets its own at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._asked: LateNumbers | None = None

    def reached(self, flag: bool) -> bool:
        """Tell if any process had set its flag at the previous call."""
        if not dist.is_initialized():
            return flag
        value = torch.full((1,), float(flag), device=self._device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        asked, self._asked = self._asked, LateNumbers(value)
        return asked is not None and asked.values()[0] > 0


def barrier() -> None:
    """Wait for every process."""
    if dist.is_initialized():
        dist.barrier()


def by_main(process: Process, work: Callable[[], object]) -> None:
    """Let the main process do something while the others wait; if it fails, none goes on.

    Raises:
        SystemExit: It failed; the main process itself raises what went wrong.
    """
    problem = None
    if process.is_main:
        try:
            work()
        except Exception as error:
            problem = error
    failed = torch.full((1,), float(problem is not None), device=process.device)
    if dist.is_initialized():
        dist.all_reduce(failed, op=dist.ReduceOp.MAX)
    if problem:
        raise problem
    if failed.item():
        raise SystemExit(1)


def data_parallel(module: nn.Module, process: Process) -> nn.Module:
    """The module with gradients averaged over processes, or itself when there is one process."""
    if process.world_size == 1:
        return module
    ids = [process.device.index] if process.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)


def sync_batch_norm(network: Network, process: Process) -> Network:
    """Share batch statistics between all processes, where the backend can."""
    has_batch_norm = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()
    )
    if process.world_size == 1 or not has_batch_norm:
        return network
    if process.device.type != "cuda":
        logger.warning("batch norm is not shared between processes on a CPU: PyTorch cannot")
        return network
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-any-return, no-untyped-call]


def seed_everything(seed: int, *counters: int) -> None:
    """Seed Python, NumPy and PyTorch from a seed and any counters (step, rank ...)."""
    mixed = int(np.random.SeedSequence([seed, *counters]).generate_state(1, np.uint32)[0])
    random.seed(mixed)
    np.random.seed(mixed)
    torch.manual_seed(mixed)
