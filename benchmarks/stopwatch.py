"""Seconds of work that a device may do while the host goes on."""

import time
from collections.abc import Callable, Mapping

import torch


def timed(way: Callable[[], object], device: str) -> float:
    """Seconds, from an idle device to an idle device."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    way()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def timed_rounds(
    parts: Mapping[str, Callable[[], object]], device: str, *, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each part in each round, in turn, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    for number in range(rounds + 1):
        for name, part in parts.items():
            taken = timed(part, device)
            if number:
                seconds[name].append(taken)
    return seconds
