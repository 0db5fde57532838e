"""Rows about the steps of a run, read from the device without stopping it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from dino_infer.devices import LateNumbers
from dino_train import distributed
from dino_train.health import CollapseMonitor
from dino_train.learner import StepOutcome
from dino_train.monitoring.estimates import Estimate
from dino_train.records.metrics import MetricsLog
from dino_train.records.progress import Progress
from dino_train.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _OpenRow:
    """Row whose numbers are still being copied to the host."""

    step: int
    names: list[str]
    numbers: LateNumbers


class StepLog:
    """Writes a row every ``run.log_every`` steps and warns of what the rows show.

    ``metrics`` is None in all processes but the first. Where ``late``, the numbers of a row are
    read one step later, so that a GPU stays busy.
    """

    def __init__(
        self, run: Run, metrics: MetricsLog | None, progress: Progress, *, late: bool
    ) -> None:
        self._run = run
        self._metrics = metrics
        self._progress = progress
        self._late = late
        self._monitor = CollapseMonitor(patience_steps=max(200, run.steps_per_epoch))
        self._clock = _Clock(run.config.optim.batch_size)
        self._estimate = Estimate(run) if metrics else None
        self._open: _OpenRow | None = None
        self.skipped = run.skipped_before
        """Steps that were not finite, up to the newest row."""
        self.skipped_in_a_row = 0
        """Most steps in a row that were not finite, up to the newest row."""

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time inside the block as waiting."""
        with self._clock.waiting():
            yield

    def step_done(self, outcome: StepOutcome) -> None:
        """Count the step that ``run.step`` has just counted, and begin or finish a row."""
        self._clock.step_done()
        if self._estimate:
            self._estimate.step_done()
        self._progress.advance()
        self.settle()
        run, step = self._run, self._run.step - 1
        if step % run.config.run.log_every == 0 or run.step == run.total_steps:
            values = {
                **outcome.health,
                "grad_norm": outcome.grad_norm,
                **run.learner.skipped.numbers(),
            }
            stacked = torch.stack(list(values.values())).float()
            shared = distributed.mean_over_processes(stacked)
            self._open = _OpenRow(step=step, names=list(values), numbers=LateNumbers(shared))
            if not self._late:
                self.settle()

    def settle(self) -> None:
        """Finish the row that is open, if one is."""
        if self._open is not None:
            opened, self._open = self._open, None
            self._finish(opened)

    def restart_clock(self) -> None:
        """Exclude the time since the last step from the training time."""
        self._clock.restart()
        if self._estimate:
            self._estimate.pause_ended()

    def _finish(self, opened: _OpenRow) -> None:
        numbers = dict(zip(opened.names, opened.numbers.values(), strict=True))
        self.skipped_in_a_row = round(numbers.pop("skipped_in_a_row"))
        skipped = self._run.skipped_before + round(numbers.pop("skipped_steps"))
        if skipped > self.skipped:
            logger.warning(
                "up to step %d, %d more steps were not finite and changed nothing",
                opened.step,
                skipped - self.skipped,
            )
        self.skipped = skipped
        row = self._row(opened.step, numbers)
        if self._metrics:
            self._metrics.append(row)
            self._progress.show(row)
            if warning := self._monitor.warning(row):
                logger.warning("step %d: %s", opened.step, warning)

    def _row(self, step: int, numbers: dict[str, float]) -> dict[str, float]:
        """One row of metrics.jsonl; ``numbers`` are means over the processes."""
        rates = self._run.rates(step)
        temp = {} if rates.teacher_temp is None else {"teacher_temp": rates.teacher_temp}
        row = {
            "step": step,
            "epoch": (step + 1) / self._run.steps_per_epoch,
            **numbers,
            "lr": rates.lr,
            "weight_decay": rates.weight_decay,
            "momentum": rates.momentum,
            **temp,
            "skipped_steps": self.skipped,
            **self._clock.read(),
        }
        if self._run.process.device.type == "cuda":
            row["peak_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        return row


class _Clock:
    """Speed of the steps since the last reading; measuring and saving do not count."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._steps = 0
        self._elapsed_s = 0.0
        self._waited_s = 0.0
        self._since_s = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        start_s = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start_s

    def step_done(self) -> None:
        self._steps += 1
        self._elapsed_s += time.perf_counter() - self._since_s
        self.restart()

    def restart(self) -> None:
        self._since_s = time.perf_counter()

    def read(self) -> dict[str, float]:
        numbers = {
            "step_time_s": self._elapsed_s / self._steps,
            "images_per_s": self._steps * self._batch_size / self._elapsed_s,
            "data_wait_share": self._waited_s / self._elapsed_s,
        }
        self._steps, self._elapsed_s, self._waited_s = 0, 0.0, 0.0
        return numbers
