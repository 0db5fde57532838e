"""Progress display of a run, and its interruption by the user."""

import logging
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)


class Progress:
    """A bar with rate and ETA on a terminal, plain log lines elsewhere."""

    def __init__(self, *, total_steps: int, start_step: int, visible: bool) -> None:
        from tqdm import tqdm

        self._total = total_steps
        self._start_step = start_step
        self._started_s = time.monotonic()
        self._visible = visible
        self._explained = False
        self._bar: Any = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            disable=not (visible and sys.stderr.isatty()),
            dynamic_ncols=True,
        )

    def advance(self) -> None:
        """Count one more step as done."""
        self._bar.update()

    def show(self, row: dict[str, float]) -> None:
        """Show a logged row; before the first, a line says what its numbers mean."""
        if not self._visible:
            return
        if not self._explained:
            self._explained = True
            logger.info("%s", _explanation(row))
        numbers = (
            f"{_loss_in_words(row)}, "
            f"{row['images_per_s']:.0f} images/s, waits for data {row['data_wait_share']:.0%}"
        )
        if not self._bar.disable:
            self._bar.set_postfix_str(numbers)
            return
        done = int(row["step"]) + 1
        elapsed_s = time.monotonic() - self._started_s
        left_s = elapsed_s / max(done - self._start_step, 1) * (self._total - done)
        logger.info(
            "epoch %.2f, step %d/%d: %s, ETA %s",
            row["epoch"],
            done,
            self._total,
            numbers,
            self._bar.format_interval(left_s),
        )

    def close(self) -> None:
        """Leave the terminal tidy."""
        self._bar.close()


def _explanation(row: dict[str, float]) -> str:
    if "rate_loss" in row:
        loss = (
            "alignment: mean cosine of crops of an image, 1 if all agree; coding rate: how far "
            "images are kept apart, 0 is collapse"
        )
    else:
        ln_k = row["loss_nats"] / max(row["loss_over_ln_k"], 1e-12)
        loss = (
            f"loss: cross-entropy of student and teacher; {ln_k:.2f} (1.00 ln K) is to know "
            "nothing, below it the student learns, 0 is collapse"
        )
    return (
        f"{loss}; images/s without measuring and saving; waits for data: share of the time, near "
        "0 % if the network is the slower part; what helps: 'Is it learning?' in report/index.html"
    )


def _loss_in_words(row: dict[str, float]) -> str:
    if "rate_loss" in row:
        return f"alignment {row['alignment']:.3f}, coding rate {row['coding_rate_nats']:.1f} nats"
    return f"loss {row['loss_nats']:.3f} ({row['loss_over_ln_k']:.2f} ln K)"


class StopRequest:
    """Turns the first Ctrl-C or SIGTERM into a flag that is read between steps.

    A second Ctrl-C interrupts at once. Outside the main thread, signals are left alone.
    """

    def __init__(self) -> None:
        self.received = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.received:
            logger.warning("stopping after this step; the run can be resumed")
        self.received = True
