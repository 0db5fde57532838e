"""Flags that every protocol has, the networks they ask for, and the way a result is shown."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from dino_infer.cli.exit_codes import GOOD, UsageError, inputs_code, printable, usage_errors
from dino_infer.cli.options import (
    DEFAULT_WEIGHTS,
    ComputeOptions,
    LimitOptions,
    WeightOptions,
)

if TYPE_CHECKING:
    from dino_infer.evaluate.contestants import Network
    from dino_infer.evaluate.reports.result import Result

logger = logging.getLogger(__name__)

EXCLUDED_SHOWN = 10  # lines of a terminal; the report has all


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Report, floors and repeatability."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the report, created if it does not exist: result.json, tables and pictures."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Replace an existing report."""
    no_floors: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure the network alone, without the untrained network and the answers without a model."""
    seed: int = 0
    """Seed of everything random: draws, splits, and the weights of the untrained network."""
    cache: Path | None = None
    """Folder that keeps features for the next protocol; by default dino-toolkit in
    $XDG_CACHE_HOME or ~/.cache. It can be deleted at any time."""

    def __post_init__(self) -> None:
        if self.overwrite and self.out is None:
            raise UsageError("--overwrite is for a report; pass -o too")
        if self.seed < 0:
            raise UsageError(f"--seed must not be negative, got {self.seed}")

    @property
    def cache_folder(self) -> Path:
        """Where features are kept."""
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return self.cache or Path(base) / "dino-toolkit" / "features"


def check_plain(compute: ComputeOptions) -> None:
    """Refuse what a protocol that asks blocks of the network for maps or keys cannot use.

    Raises:
        UsageError: A precision or compiling is asked for.
    """
    if compute.precision not in ("auto", "fp32") or compute.compile:
        raise UsageError("this protocol runs the network in fp32; leave out --precision, --compile")


def load(
    weights: WeightOptions,
    compute: ComputeOptions,
    limits: LimitOptions,
    report: ReportOptions,
    *,
    size: int | None = None,
) -> "tuple[Network, ...]":
    """The network that the flags ask for, and its untrained twin unless --no-floors is given.

    Args:
        weights: Weights of the network.
        compute: Execution of the network.
        limits: Limits of images.
        report: Floors, seed and cache.
        size: Side of images in pixels; given where the patches of the network are looked at.

    Raises:
        UsageError: Unknown arch, weights that are no PyTorch network, or a size below one patch.
    """
    from dino_infer.attention.grids import check_patch_fits
    from dino_infer.evaluate.contestants import load_networks

    source = weights.weights or DEFAULT_WEIGHTS
    if source.endswith(".onnx") or compute.engine not in ("auto", "torch"):
        raise UsageError(
            "this protocol looks into the network: pass PyTorch weights, and --engine auto or torch"
        )
    try:
        networks = load_networks(
            source,
            **weights.keywords(),
            floors=not report.no_floors,
            seed=report.seed,
            cache=report.cache_folder,
            **(compute.keywords() | limits.keywords()),
        )
        if size is not None:
            check_patch_fits(networks[0].backbone, size)
        return networks
    except ValueError as error:
        raise UsageError(str(error)) from error


@dataclass
class Answer:
    """The result of a protocol, and the exit code that follows from it."""

    result: "Result | None" = None
    code: int = GOOD


@contextmanager
def open_report(
    report: ReportOptions, *, tables: Sequence[str] = (), folders: Sequence[str] = ()
) -> Iterator[Answer]:
    """Print the figures of the answer that the block gives, and write the report that -o asks for.

    A report that cannot be written is refused before the block, which loads weights too.

    Args:
        report: Folder to write the report to.
        tables: Names of further tables to print, where the result has them.
        folders: Folders in the report that the block itself fills.
    """
    from dino_infer.evaluate.reports.report import hold_report, write_report
    from dino_infer.evaluate.reports.result import text_of, text_table

    out, answer = report.out, Answer()
    with nullcontext() if out is None else hold_report(out, overwrite=report.overwrite):
        with usage_errors():
            yield answer
        result = answer.result
        assert result is not None
        print(text_table(result))
        for name in tables:
            if name in result.tables:
                print(f"\n{text_of(result.tables[name])}")
        if out is not None:
            name_written([*write_report(out, result), *(out / name for name in folders)])
    for line in result.excluded[:EXCLUDED_SHOWN]:
        logger.warning("left out: %s", printable(line))
    if len(result.excluded) > EXCLUDED_SHOWN:
        rest = len(result.excluded) - EXCLUDED_SHOWN
        logger.warning("left out: %d more, listed in result.json of a report", rest)
    if result.failed:
        logger.warning("%d images could not be read and were left out", result.failed)
    answer.code = inputs_code(total=result.images, failed=result.failed)


def name_written(paths: Sequence[Path]) -> None:
    """Name the files that were written, a line each; stdout is for figures alone."""
    for path in paths:
        logger.info("written: %s", printable(path))
