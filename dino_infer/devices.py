"""Devices, precisions and threads that networks run with."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dino_infer.choices import Precision
from dino_infer.cores import cores
from dino_infer.errors import DinoError, first_line

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of matrix products by precision; the others stay as they are."""


def resolved_device(device: str | torch.device) -> torch.device:
    """Device that is meant; "auto" is a GPU if there is one.

    Raises:
        DinoError: No such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts when it is built without CUDA
        raise DinoError(
            f"device {str(device)!r} cannot be used ({first_line(error)}); pass `device='cpu'`"
        ) from error


def resolved_precision(precision: Precision, device: torch.device) -> str:
    """Precision that is meant; "auto" is bf16 where the device multiplies it natively.

    Raises:
        ValueError: Unknown precision.
    """
    if precision in ("fp32", *AUTOCAST):
        return precision
    if precision != "auto":
        raise ValueError(f"precision must be auto, fp32, bf16 or fp16, got {precision!r}")
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


def cpu_threads(workers: int | None) -> int:
    """Batches that are worked on at once on a CPU: as many as asked for, or one a core."""
    if workers is not None:
        return max(workers, 1)
    return min(cores(), torch.get_num_threads())


@contextmanager
def one_thread_each(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads compute on one core each; afterwards all is as before."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "embed", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


class LateNumbers:
    """Numbers on their way to the host; asked for one step later, nothing has to wait for them.

    Args:
        values: The numbers; they may change on the device afterwards.
    """

    def __init__(self, values: Float[Tensor, "*shape"]) -> None:
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        else:
            self._host = values.to("cpu", copy=True)

    def array(self) -> Float[np.ndarray, "*shape"]:
        """The numbers; waits for the work that was queued before them, not for later work."""
        if self._arrived is not None:
            self._arrived.synchronize()
        array: np.ndarray = self._host.numpy()
        return array

    def values(self) -> list[float]:
        """The numbers of ``array``, where they are one after the other."""
        values: list[float] = self.array().tolist()
        return values
