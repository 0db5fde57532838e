"""An honest word, after the first steps, on how long a run will take."""

import logging
import time
from collections.abc import Callable

from dino_train.run import Run

logger = logging.getLogger(__name__)

FEWEST_STEPS, LEAST_S = 3, 5.0  # after the first step, which loads and compiles
WORTH_SAYING_S = 60
DAY_S = 24 * 3600
TINY_IMAGES_PER_S = (
    150  # of the recipe tiny_cpu on one core, benchmarks/reports/quick_start_2026-11
)
TINY_EPOCHS = 12


class Estimate:
    """Says once how long the run will take, and warns of more than a day.

    Args:
        run: The run; its step is the number of steps done.
        clock: Seconds that pass.
    """

    def __init__(self, run: Run, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._made_s = clock()
        self._pause_s: float | None = None
        self._first_step: tuple[int, float] | None = None
        self._said = False

    def pause_ended(self) -> None:
        """Note the end of measuring and saving; the first such pause tells how long others are."""
        if self._pause_s is None:
            self._pause_s = self._clock() - self._made_s

    def step_done(self) -> None:
        """Count the step that ``run.step`` has just counted; say the estimate when it can be."""
        if self._said:
            return
        if self._first_step is None:
            self._first_step = self._run.step, self._clock()
            return
        steps, elapsed_s = self._run.step - self._first_step[0], self._clock() - self._first_step[1]
        if steps >= FEWEST_STEPS and elapsed_s >= LEAST_S:
            self._said = True
            self._say(elapsed_s / steps)

    def _say(self, step_s: float) -> None:
        run = self._run
        left = run.total_steps - run.step
        pauses = left // min(run.eval_steps, run.snapshot_steps)
        left_s = left * step_s + pauses * (self._pause_s or 0.0)
        if left_s < WORTH_SAYING_S:
            return
        device = "CPU" if run.process.device.type == "cpu" else "GPU"
        hint = f"; {self._hint()}" if left_s > 3600 else ""
        level = logging.WARNING if left_s > DAY_S else logging.INFO
        logger.log(
            level, "about %s for the %s steps left on this %s%s",
            in_words(left_s), f"{left:,}", device, hint,
        )  # fmt: skip

    def _hint(self) -> str:
        run = self._run
        tiny_s = len(run.images) * TINY_EPOCHS / TINY_IMAGES_PER_S
        if run.process.device.type == "cpu" and run.config.recipe != "tiny_cpu" and tiny_s < 3600:
            return "`tiny_cpu` takes minutes"
        return "fewer `optim.epochs`, a smaller `model.arch` or smaller crops shorten it"


def in_words(seconds: float) -> str:
    """A duration as people say it: 40 s, 11 min, 11 h, 3 days."""
    for unit, size in (("days", DAY_S), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
