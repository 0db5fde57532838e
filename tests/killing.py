"""Processes that are killed, from outside or by themselves before a step on disk."""

import os
import signal
import traceback
from collections.abc import Callable, Iterable


def forked(work: Callable[[], int]) -> int:
    """Process that does the work; its exit code is 70 when it fails."""
    process = os.fork()
    if process == 0:
        code = 70
        try:
            code = work()
        except BaseException:
            os.write(2, traceback.format_exc().encode())  # sys.stderr may be a copy in memory
        finally:
            os._exit(code)
    return process


def exit_code(process: int) -> int | None:
    """Of a process, when it has ended; None if it was killed."""
    _, status = os.waitpid(process, 0)
    return None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def kill_before_step(number: int, *, steps: Iterable[str]) -> None:
    """Let this process kill itself instead of taking a step on disk.

    Args:
        number: How many steps it takes before.
        steps: Functions of ``os`` that change what is on the disk.
    """
    left = number

    def fused(step: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **options: object) -> object:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return step(*args, **options)

        return run

    for name in steps:
        setattr(os, name, fused(getattr(os, name)))
