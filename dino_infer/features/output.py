"""Storage settings of a feature set, the handling of existing files, and the outcome."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dino_infer.choices import OnError
from dino_infer.errors import DataError
from dino_infer.features.files import FeaturePaths
from dino_infer.features.unfinished import discard, recover_unfinished
from dino_infer.features.writer import COMMIT_EVERY_S, FeatureWriter


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a job: numbers of images, rows and failures."""

    images: int = 0
    rows: int = 0
    failed: int = 0
    dim: int = 0

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            images=self.images + other.images,
            rows=self.rows + other.rows,
            failed=self.failed + other.failed,
            dim=max(self.dim, other.dim),
        )


@dataclass(frozen=True, kw_only=True)
class Output:
    """Settings for storing features.

    Attributes:
        dtype: "float32" or "float16".
        on_error: "skip" leaves images out that cannot be read, "fail" stops at the first, "nan"
            keeps a row of NaN for each.
        resume: Go on with an unfinished set.
        overwrite: Replace a finished or unfinished set.
        update: Take over the rows of an older set whose files have not changed.
        commit_every_s: Seconds of work that a stop may lose.
    """

    dtype: str = "float32"
    on_error: OnError = "skip"
    resume: bool = False
    overwrite: bool = False
    update: bool = False
    commit_every_s: float = COMMIT_EVERY_S


def enter(paths: FeaturePaths, output: Output) -> None:
    """Refuse to touch what is there, or make room for a new set.

    Raises:
        DataError: A set is there, finished or not, and must stay.
    """
    begun = recover_unfinished(paths)
    if begun and output.overwrite:
        discard(paths)
    elif begun and not output.resume:
        raise DataError(
            f"{str(paths.partial)!r} holds an unfinished set; pass `resume=True` to go on with it, "
            "or `overwrite=True` to start again"
        )
    found = [str(file) for file in (*paths.hashed, paths.manifest) if file.exists()]
    if found and not (output.overwrite or output.update or begun):
        raise DataError(
            f"{found[0]!r} exists; pass `overwrite=True` to replace it, `update=True` to add what "
            "is new, or another `out`"
        )


def outcome_of(writer: FeatureWriter) -> Outcome:
    """Return the outcome of a writer so far."""
    done = writer.done
    return Outcome(images=done.images, rows=done.shape[0], failed=done.failed, dim=done.shape[-1])


def outcome_in(manifest: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a finished set."""
    return Outcome(**{name: manifest[name] for name in ("images", "rows", "failed", "dim")})
