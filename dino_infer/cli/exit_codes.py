"""The one place where a command's errors become a line on stderr and an exit code.

    def main(args: Sequence[str] | None = None) -> int:
        return exit_code(lambda: tyro.cli(embed, prog="dino-embed", args=args), prog="dino-embed")

Exit codes: 0 good, 1 a DinoError or a system error, 2 wrong usage, 3 finished but some inputs
failed, 4 all inputs failed, 130 interrupted. The command returns 0, 3 or 4 (or None for 0). While
it runs, log records of the toolkit go to stderr, so stdout carries results only.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dino_infer.cores import container_cores
from dino_infer.errors import DinoError

GOOD, FAILED, USAGE, SOME_FAILED, ALL_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130
PACKAGES = ("dino_infer", "dino_train", "dino_export", "dino_app")


class UsageError(Exception):
    """Arguments that parse but make no sense; exit code 2."""


def exit_code(command: Callable[[], int | None], *, prog: str) -> int:
    """Run a command and return its exit code.

    Args:
        command: Parses arguments and does the work.
        prog: Name of the command, in front of error lines.
    """
    _limit_threads()
    with _records_to_stderr():
        try:
            return command() or GOOD
        except SystemExit as stop:  # how the argument parser ends --help and usage errors
            return stop.code if isinstance(stop.code, int) else GOOD
        except UsageError as error:
            return _failed(prog, str(error), USAGE)
        except DinoError as error:
            return _failed(prog, str(error), FAILED)
        except BrokenPipeError:  # the reader of stdout has gone, say `| head`: no news to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except OSError as error:
            named = f": {error.filename!r}" if error.filename else ""
            return _failed(prog, f"{error.strerror or error}{named}", FAILED)
        except KeyboardInterrupt:
            return _failed(prog, "interrupted", INTERRUPTED)


def inputs_code(*, total: int, failed: int) -> int:
    """The exit code of a command that went through ``total`` inputs."""
    if not failed:
        return GOOD
    return ALL_FAILED if failed == total else SOME_FAILED


def printable(text: object) -> str:
    r"""Text that any terminal takes: bytes of file names that are no UTF-8 show as ``\xff``."""
    return os.fsencode(str(text)).decode("utf-8", "backslashreplace")


def _limit_threads() -> None:
    """Let PyTorch, which is not loaded yet, see the limit of a container; it sees the others."""
    if (limit := container_cores()) is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(limit))


def _failed(prog: str, message: str, code: int) -> int:
    print(f"{prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


class _StderrHandler(logging.Handler):
    """Lines that do not tear a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        tqdm.write(level + self.format(record), file=sys.stderr)


@contextmanager
def _records_to_stderr() -> Iterator[None]:
    """Show log records from INFO of our packages and from WARNING of all others."""
    # It would warn of every retry, twice; the error that follows is one line.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    handler = _StderrHandler()
    loggers = [logging.getLogger(name) for name in PACKAGES]
    levels = [logger.level for logger in loggers]
    logging.getLogger().addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
