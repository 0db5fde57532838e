"""Ways to do one thing, each timed in turn with the present one, and a row of a table for each."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from stopwatch import timed
from torch import Tensor

WARM_UPS = {"cpu": 1, "cuda": 3}  # CUDA graphs are recorded in the second call
REASON_LENGTH = 100  # characters

Result = dict[str, Tensor]
"""Tensors by name, of which every way has the same."""


class NotPossibleError(Exception):
    """Why a way cannot run here."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """Something that can be run again and again."""

    run: Callable[[], object]
    result: Callable[[], Result]
    """Copies of what the last run gave."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A row of the table."""

    name: str
    make: Callable[[], Way]
    """Raises ``NotPossibleError``, or whatever PyTorch does, where there is no such way here."""
    tolerance: float
    """How far it may be apart from the present way."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How candidates are timed; no one is begun after ``deadline``, a time of the monotonic clock.

    Nothing of a candidate outlives its row, so that each has the device's memory to itself but for
    what the present way holds.
    """

    device: str
    rounds: int
    deadline: float

    def print_head(self) -> None:
        """The names of the columns."""
        names = f"{'ms':>9}{'min':>9}{'max':>9}{'faster':>9}{'GiB':>7}{'first s':>9}{'apart':>9}"
        print(f"{'':40}{names}", flush=True)

    def print_rows(self, title: str, candidates: Sequence[Candidate]) -> bool:
        """Time all of them against the first; true if one is apart."""
        print(title, flush=True)
        failed = False
        try:
            present = candidates[0].make()
            present.run()
            expected = present.result()
        except torch.cuda.OutOfMemoryError as error:
            print(f"  {candidates[0].name:38}  not possible: {reason(error)}", flush=True)
            candidates = []
        for candidate in candidates:
            try:
                if time.monotonic() > self.deadline:
                    raise NotPossibleError("no time is left")
                failed |= self._print_row(candidate, present, expected)
            except Exception as error:  # whatever it is, the other rows are wanted
                print(f"  {candidate.name:38}  not possible: {reason(error)}", flush=True)
            self._forget()
        return failed

    def _print_row(self, candidate: Candidate, present: Way, expected: Result) -> bool:
        reserved = self._reserved()
        way = candidate.make()
        first_s = timed(way.run, self.device)
        apart = distance(way.result(), expected)
        for _ in range(WARM_UPS[self.device] - 1):
            way.run()
        peak = self._peak(way) - reserved
        ours, theirs = [], []
        for _ in range(self.rounds):
            theirs.append(timed(present.run, self.device))
            ours.append(timed(way.run, self.device))
        ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
        print(
            f"  {candidate.name:38}{1e3 * statistics.median(ours):9.1f}{1e3 * min(ours):9.1f}"
            f"{1e3 * max(ours):9.1f}{ratio:8.2f}x{peak:7.1f}{first_s:9.1f}{apart:9.1e}"
            + ("  TOO FAR APART" if apart > candidate.tolerance else ""),
            flush=True,
        )
        return apart > candidate.tolerance

    def _forget(self) -> None:
        torch.compiler.reset()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _reserved(self) -> float:
        """GiB that the device keeps for tensors that live."""
        if self.device == "cpu":
            return float("nan")
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved() / 2**30

    def _peak(self, way: Way) -> float:
        """GiB that the device reserves at most during a run, pools of CUDA graphs included."""
        if self.device == "cpu":
            return float("nan")
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        way.run()
        return torch.cuda.max_memory_reserved() / 2**30


def distance(result: Result, expected: Result) -> float:
    """Largest difference, relative to the largest entry of its tensor; not finite is infinite."""
    if missing := expected.keys() ^ result.keys():
        raise ValueError(f"both ways must give the same tensors, one lacks {sorted(missing)}")
    found = 0.0
    for name, value in expected.items():
        apart = ((result[name] - value).abs().max() / value.abs().max().clamp(min=1e-30)).item()
        found = max(found, apart if apart < float("inf") else float("inf"))
    return found


def reason(error: Exception) -> str:
    """Its first line, with its kind unless it is ours."""
    line = (str(error).splitlines() or [""])[0][:REASON_LENGTH]
    return line if isinstance(error, NotPossibleError) else f"{type(error).__name__}: {line}"
