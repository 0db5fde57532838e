"""Rows of numbers about a run: metrics.jsonl, and TensorBoard and W&B that read the rows."""

import importlib.util
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dino_infer.errors import MissingExtraError
from dino_infer.files import lines_of, parsed_object, write_bytes

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"

Row = Mapping[str, float]
"""One logged step: flat, with units in the names; see docs/formats.md."""


def read_rows(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics file; damaged lines are passed over."""
    return [row for line in lines_of(path) if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, float] | None:
    """Row that a line holds, or None if it is damaged."""
    row = parsed_object(line)
    if row is None or not all(_is_number(value) for value in row.values()):
        return None
    step = row.get("step")
    return row if isinstance(step, int) and step >= 0 else None


def _is_number(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 2**63
    return isinstance(value, float)


def _drop_rows(path: Path, *, start_step: int) -> None:
    """Drop rows of ``start_step`` and later; damaged lines stay, and a warning counts them."""
    lines = lines_of(path)
    rows = [_row(line) for line in lines]
    damaged = sum(row is None and bool(line.strip()) for line, row in zip(lines, rows, strict=True))
    if damaged:
        logger.warning("%s: damaged lines that are passed over: %d", path, damaged)
    kept = [
        line
        for line, row in zip(lines, rows, strict=True)
        if row is None or row["step"] < start_step
    ]
    content = b"".join(line + b"\n" for line in kept)
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` and hands each one to the other readers.

    Rows of ``start_step`` and later are dropped: training is about to repeat them.
    """

    def __init__(
        self,
        run: Path,
        *,
        start_step: int,
        tensorboard: bool = True,
        wandb_project: str | None = None,
    ) -> None:
        _drop_rows(run / METRICS, start_step=start_step)
        self._file = open(run / METRICS, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        self._readers: list[Any] = []
        if tensorboard:
            self._readers.append(_TensorBoard(run / "tensorboard", start_step))
        if wandb_project:
            self._readers.append(_WandB(run, wandb_project))

    def append(self, row: Row) -> None:
        """Write one row everywhere."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for reader in self._readers:
            reader.append(row)

    def sync(self) -> None:
        """Wait until all rows are on the disk: a snapshot must not outlive the rows before it."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush and close every file."""
        self._file.close()
        for reader in self._readers:
            reader.close()


class _TensorBoard:
    def __init__(self, folder: Path, start_step: int) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtraError(
                "TensorBoard needs the train extra: pip install 'dino-toolkit[train]'; or pass "
                "`tensorboard=False`"
            )
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start_step)

    def append(self, row: Row) -> None:
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self._writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()


def check_wandb() -> None:
    """Check that Weights & Biases can be used.

    Raises:
        MissingExtraError: It is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise MissingExtraError(
            "`wandb_project` needs the wandb extra: pip install 'dino-toolkit[wandb]'"
        )


class _WandB:
    def __init__(self, run: Path, project: str) -> None:
        import wandb

        # The run folder's name is the id, so that a resumed run goes on in the same W&B run.
        self._run = wandb.init(project=project, id=run.name, dir=str(run), resume="allow")

    def append(self, row: Row) -> None:
        self._run.log(dict(row), step=int(row["step"]))

    def close(self) -> None:
        self._run.finish()
