"""The one place where a command's errors become a line on stderr and an exit code.

    def main(args: Sequence[str] | None = None) -> int:
        return exit_code(
            lambda args: parsed(embed, prog="dino-embed", args=args), prog="dino-embed", args=args
        )

The library's messages and log records name parameters in backticks (`batch_size`,
`overwrite=True`); here they become flags of the command (--batch-size, --overwrite) where it has
them. Exit codes: 0 good, 1 a DinoError or a system error, 2 wrong usage, 3 finished but some inputs
failed, 4 all inputs failed, 130 interrupted. The command returns 0, 3 or 4 (or None for 0). While
it runs, log records of the toolkit go to stderr, so stdout carries results only.
"""

import functools
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

from dino_infer import __version__
from dino_infer.cores import container_cores
from dino_infer.errors import DinoError

GOOD, FAILED, USAGE, SOME_FAILED, ALL_FAILED, INTERRUPTED = 0, 1, 2, 3, 4, 130
PACKAGES = ("dino_infer", "dino_train", "dino_export", "dino_app")


class UsageError(Exception):
    """Arguments that parse but make no sense; exit code 2."""


@contextmanager
def usage_errors(kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Take values that the library refuses for wrong usage."""
    try:
        yield
    except kind as error:
        raise UsageError(str(error)) from error


def exit_code(
    command: Callable[[list[str]], int | None],
    *,
    prog: str,
    args: Sequence[str] | None,
    renamed: Mapping[str, str] | None = None,
) -> int:
    """Run a command and return its exit code.

    Args:
        command: Parses arguments and does the work.
        prog: Name of the command, in front of error lines.
        args: The arguments; None takes those of this process.
        renamed: Flags of parameters that the library calls otherwise, say ``crops: --crops-on``.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments == ["--version"]:
        print(f"{prog} {__version__}")
        return GOOD

    flags = functools.cache(lambda: flags_of(command, arguments))

    def named(message: str) -> str:
        return in_flags(message, flags(), renamed=renamed) if "`" in message else message

    def failed(message: str, code: int) -> int:
        print(f"{prog}: error: {named(' '.join(message.split()))}", file=sys.stderr)
        return code

    _limit_threads()
    with _records_to_stderr(named):
        try:
            return command(arguments) or GOOD
        except SystemExit as stop:  # how the argument parser ends --help and usage errors
            return stop.code if isinstance(stop.code, int) else GOOD
        except UsageError as error:
            return failed(str(error), USAGE)
        except DinoError as error:
            return failed(str(error), FAILED)
        except BrokenPipeError:  # the reader of stdout has gone, say `| head`: no news to it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except OSError as error:
            which = f": {error.filename!r}" if error.filename else ""
            return failed(f"{error.strerror or error}{which}", FAILED)
        except KeyboardInterrupt:
            return failed("interrupted", INTERRUPTED)


def in_flags(
    message: str, flags: Collection[str], *, renamed: Mapping[str, str] | None = None
) -> str:
    """Name the flags of a command in place of the parameters that a message names.

    Args:
        message: Names parameters in backticks, with a value or without: `crop='none'`.
        flags: All flags of the command; parameters without one stay as they are.
        renamed: Flags of parameters that have another name in the command.
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        flag = (renamed or {}).get(name, "--" + name.replace("_", "-"))
        if value == "False" and (off := flag.replace("--", "--no-", 1)) in flags:
            return off
        if flag not in flags:
            return found[0]
        return flag if value in (None, "True") else f"{flag} {value.strip(chr(39))}"

    return re.sub(r"`([a-z][a-z0-9_.]*)(?:=([^`]*))?`", flag, message)


def flags_of(command: Callable[[list[str]], Any], arguments: Sequence[str]) -> set[str]:
    """All flags that the command, or its subcommand, names in its own --help."""
    subcommand = [name for name in arguments[:1] if not name.startswith("-")]
    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
        command([*subcommand, "--help"])
    return set(re.findall(r"--[a-z][a-z0-9.-]*", text.getvalue()))


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


class _StderrHandler(logging.Handler):
    """Lines that do not tear a progress bar apart."""

    def __init__(self, named: Callable[[str], str]) -> None:
        super().__init__()
        self._named = named

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        tqdm.write(level + self._named(self.format(record)), file=sys.stderr)


@contextmanager
def _records_to_stderr(named: Callable[[str], str]) -> Iterator[None]:
    """Show log records from INFO of our packages and from WARNING of all others."""
    # It would warn of every retry, twice; the error that follows is one line.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    handler = _StderrHandler(named)
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
