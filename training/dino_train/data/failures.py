"""The list of unreadable images of a run, and the point at which there are too many."""

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from dino_infer.errors import TrainingError
from dino_infer.files import lines_of, parsed_object, sync_folder
from dino_infer.images.read import ImageFailure

logger = logging.getLogger(__name__)

_EXAMPLES = 3


def listed_failures(path: Path) -> list[str]:
    """Paths of the images that a file lists; damaged lines are passed over."""
    return [listed for line in lines_of(path) if (listed := _path(line)) is not None]


def _path(line: bytes) -> str | None:
    """Path of the image that a line lists, or None if the line is damaged."""
    path = (parsed_object(line) or {}).get("path")
    return path if isinstance(path, str) else None


class FailureLog:
    """Distinct unreadable images, one JSON object a line: path, kind, reason.

    What an earlier run listed stays in the file and is not listed again, but only images found bad
    since this log was opened count towards the limit: files that were repaired in between do not
    stop the next run. Several processes may write to one file.
    """

    def __init__(self, path: str | Path, *, num_images: int, max_bad_share: float) -> None:
        if num_images < 1:
            raise ValueError(f"num_images must be at least 1, got {num_images!r}")
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"max_bad_share must lie in [0, 1], got {max_bad_share!r}")
        self._path = Path(path)
        self._num_images = num_images
        self._max_bad_share = max_bad_share
        self._listed: set[str] = set()
        self._read_to = 0
        self._found: dict[str, ImageFailure] = {}
        if damaged := self._read_listed():
            logger.warning("%s: damaged lines that are passed over: %d", path, damaged)

    @property
    def count(self) -> int:
        """Distinct images found bad since this log was opened."""
        return len(self._found)

    @property
    def share(self) -> float:
        """``count`` as a share of the listing."""
        return self.count / self._num_images

    def add(self, failures: Iterable[ImageFailure]) -> None:
        """List the failures that are new.

        Raises:
            TrainingError: More images are bad than the stated share; they are listed first.
        """
        new = {failure.path: failure for failure in failures if failure.path not in self._found}
        if not new:
            return
        self._found |= new
        self._read_listed()  # another process may have met them too
        self._append([failure for path, failure in new.items() if path not in self._listed])
        if self.share > self._max_bad_share:
            raise TrainingError(self._too_many())

    def _too_many(self) -> str:
        first = "; ".join(
            f"{failure.path!r}: {failure.reason}"
            for failure in list(self._found.values())[:_EXAMPLES]
        )
        return (
            f"{self.count} of {self._num_images} images ({self.share:.1%}) cannot be read, more "
            f"than the {self._max_bad_share:.1%} allowed; all are listed in {str(self._path)!r}, "
            f"the first: {first}. Repair or remove them, or raise run.max_bad_share"
        )

    def _read_listed(self) -> int:
        """Read on to the end, and count the lines that cannot be read."""
        damaged = 0
        if not self._path.exists():
            return damaged
        with self._path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):  # cut off by a crash, or still being written
                    break
                self._read_to += len(line)
                listed = _path(line)
                if listed is not None:
                    self._listed.add(listed)
                elif line.strip():
                    damaged += 1
        return damaged

    def _append(self, failures: list[ImageFailure]) -> None:
        if not failures:
            return
        text = "".join(json.dumps(asdict(failure)) + "\n" for failure in failures)
        with self._path.open("ab") as file:
            whole = file.tell() == self._read_to  # else the file ends in half a line
            file.write(text.encode("ascii") if whole else b"\n" + text.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
            if not self._read_to:  # it may be new
                sync_folder(self._path.parent)
        self._listed.update(failure.path for failure in failures)
