"""Disks that refuse, are slow, or are full: functions of ``os`` that fail or wait for a while."""

import errno
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}
WRITING = ("replace", "link", "mkdir", "truncate", "ftruncate", "pwrite", "fsync", "fdatasync")


class Refusal:
    """Lets one step on disk fail.

    Attributes:
        steps: Steps taken so far, the one that failed included.
    """

    def __init__(self, number: int, error: str) -> None:
        self.steps = 0
        self._number, self._error = number, ERRORS[error]

    def step(self, step: Callable[..., object]) -> Callable[..., object]:
        """The step, which fails when it is the one of the number."""

        def run(*args: object, **options: object) -> object:
            self.steps += 1
            if self.steps - 1 == self._number:
                raise OSError(self._error, os.strerror(self._error))
            return step(*args, **options)

        return run

    @property
    def happened(self) -> bool:
        """True if a step failed."""
        return self.steps > self._number


@contextmanager
def refused_step(number: int, error: str) -> Iterator[Refusal]:
    """Let one step on disk of this process fail, the others pass.

    Args:
        number: How many steps pass before it.
        error: One of ``ERRORS``.
    """
    refusal = Refusal(number, error)
    with pytest.MonkeyPatch.context() as patched:
        for name in WRITING:
            patched.setattr(os, name, refusal.step(getattr(os, name)))
        yield refusal


@contextmanager
def slow_disk(seconds: float) -> Iterator[None]:
    """Let every read and every step on disk of this process take longer."""

    def slow(step: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **options: object) -> object:
            time.sleep(seconds)
            return step(*args, **options)

        return run

    with pytest.MonkeyPatch.context() as patched:
        for name in (*WRITING, "read", "pread"):
            patched.setattr(os, name, slow(getattr(os, name)))
        yield


@contextmanager
def full_disk(bytes_allowed: int) -> Iterator[None]:
    """Let files of this process end after so many bytes, in code of any language."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
