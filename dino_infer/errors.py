"""Errors a caller may want to catch.

DinoError                   anything wrong outside the program: files, formats, settings of a run
├── DataError               a data source is missing, empty or unusable
├── ImageError              one image cannot be read; carries .path and .kind
├── CheckpointError         weights are missing, corrupt, or for another architecture
├── RunError                a run folder cannot be used: other config, damaged, not writable
├── TrainingError           training cannot go on: too many bad files or non-finite steps
└── MissingExtraError       an optional package is not installed

A wrong argument is a built-in ``ValueError`` or ``TypeError`` instead.
"""

from typing import Literal

ImageErrorKind = Literal[
    "missing",  # no such file, a broken link, not a regular file
    "unreadable",  # the operating system refuses to read it
    "empty",  # zero bytes
    "unsupported",  # not an image, or a format that Pillow does not know
    "corrupt",  # truncated or damaged pixel data
    "too_large",  # more pixels than the limit
]


class DinoError(Exception):
    """Base of every error that a command turns into one line and exit code 1."""


class DataError(DinoError):
    """A data source is missing, empty or unusable."""


class ImageError(DinoError):
    """One image cannot be read; a long job lists it and goes on.

    Attributes:
        path: The image, as its listing names it.
        kind: Kind of fault, one of ``ImageErrorKind``.
        reason: The cause in words, without the path.
    """

    def __init__(self, path: str, kind: ImageErrorKind, reason: str) -> None:
        super().__init__(f"{path!r}: {reason}")
        self.path = path
        self.kind = kind
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[str, ImageErrorKind, str]]:
        return ImageError, (self.path, self.kind, self.reason)  # it crosses process borders


class CheckpointError(DinoError):
    """Weights are missing, corrupt, or for another architecture."""


class RunError(DinoError):
    """A run folder cannot be used: another config, damaged, or not writable."""


class OutputInUseError(DinoError):
    """Another process writes to the same output."""


class TrainingError(DinoError):
    """Training cannot go on: too many bad files, or too many non-finite steps in a row."""


class MissingExtraError(DinoError):
    """An optional package is not installed."""


def first_line(error: BaseException) -> str:
    """The cause that an error tells, in one line; its type where it tells nothing."""
    text = str(getattr(error, "strerror", None) or error)
    return (text.strip().splitlines() or [type(error).__name__])[0]
