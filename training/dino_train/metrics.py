"""Rows of numbers about a run: metrics.jsonl, and TensorBoard and W&B that read the rows."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dino_infer.errors import MissingExtraError
from dino_infer.files import write_bytes

Row = Mapping[str, float]
"""One logged step: flat, with units in the names; see docs/formats.md."""


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file; a last line cut off by a crash is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class MetricsLog:
    """Appends rows to ``metrics.jsonl`` and hands each one to the other readers.

    Args:
        run: The run folder.
        start_step: Rows of this step and later are dropped: training is about to repeat them.
        tensorboard: Also write ``tensorboard/``.
        wandb_project: Also log to this Weights & Biases project.
    """

    def __init__(
        self,
        run: Path,
        *,
        start_step: int,
        tensorboard: bool = True,
        wandb_project: str | None = None,
    ) -> None:
        self._path = run / "metrics.jsonl"
        kept = [row for row in read_rows(self._path) if row["step"] < start_step]
        write_bytes(self._path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
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
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start_step)

    def append(self, row: Row) -> None:
        for name, value in row.items():
            if name not in ("step", "epoch"):
                self._writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()


def check_wandb() -> None:
    """Whether Weights & Biases can be used.

    Raises:
        MissingExtraError: It is not installed.
    """
    if importlib.util.find_spec("wandb") is None:
        raise MissingExtraError("--wandb needs the wandb extra: pip install 'dino-toolkit[wandb]'")


class _WandB:
    def __init__(self, run: Path, project: str) -> None:
        import wandb

        # The run folder's name is the id, so that a resumed run goes on in the same W&B run.
        self._run = wandb.init(project=project, id=run.name, dir=str(run), resume="allow")

    def append(self, row: Row) -> None:
        self._run.log(dict(row), step=int(row["step"]))

    def close(self) -> None:
        self._run.finish()
