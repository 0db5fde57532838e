"""A program in a process of its own: its lines, its memory, its end by the clock."""

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GRACE_S = 60.0  # to save and leave, for a program that was told to stop


class NotMeasuredError(Exception):
    """A program cannot run here, or ended before it had shown a speed; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a run reached after its start."""

    images_per_s: float
    lowest: float
    """Of stretches of some steps, in images per second, as is ``highest``."""
    highest: float
    wait_share: float
    """Part of the time that went into waiting for data."""
    peak_gib: float
    """Memory of the GPU, or resident memory of the largest process where there is none."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a program ended."""

    lines: list[tuple[float, str]]
    """Its output, with the second of the arrival of each line."""
    complaint: str
    """Why it failed: the last line that it wrote; empty where it came to its end or was stopped."""
    resident_gib: float
    """Peak memory of the largest of its processes; no less than what this one held at the start."""


class Shares:
    """Equal shares of the time that is left, for each of the programs that are left.

    Args:
        minutes: Time of all together.
        programs: How many will ask.
    """

    def __init__(self, minutes: float, programs: int) -> None:
        self._end_s = time.monotonic() + 60 * minutes
        self._left = programs

    def take(self) -> float:
        """Seconds for the next program."""
        seconds = (self._end_s - time.monotonic()) / self._left
        self._left -= 1
        return max(seconds, 1.0)


def run_to_end(
    command: Sequence[str],
    *,
    log: Path,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
    folder: str | Path | None = None,
) -> Ended:
    """Wait for a program; one that takes too long is asked to stop, and then made to.

    Args:
        command: Program and arguments.
        log: Where its errors go.
        limit_s: When it is asked to stop.
        environment: Variables beside those of this process.
        folder: Where it runs.
    """
    start_s = time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    timers = [
        threading.Timer(limit_s, os.kill, (process.pid, signal.SIGTERM)),
        threading.Timer(limit_s + GRACE_S, os.killpg, (process.pid, signal.SIGKILL)),
    ]
    for timer in timers:
        timer.start()
    try:
        assert process.stdout is not None
        with process.stdout as output:
            lines = [(time.perf_counter(), line) for line in output]
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        for timer in timers:
            timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    failed = process.returncode != 0 and time.perf_counter() - start_s < limit_s
    return Ended(
        lines=lines,
        complaint=_complaint(log, lines, process.returncode) if failed else "",
        resident_gib=_resident_gib(usage),
    )


def _complaint(log: Path, lines: list[tuple[float, str]], code: int) -> str:
    said = [*(line for _, line in lines), *log.read_text(errors="replace").splitlines()]
    spoken = [line.strip() for line in said if line.strip()]
    return f"{spoken[-1] if spoken else 'it said nothing'} (exit code {code})"


def _resident_gib(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / 2**20  # Linux counts KiB
