"""Progress of a long job over images: a bar on a terminal, a log line now and then elsewhere."""

import logging
import sys
import time

from tqdm import tqdm

logger = logging.getLogger(__name__)

LINE_EVERY_S = 30.0


class Progress:
    """Rate and time left of a job, on stderr.

    Args:
        what: The job in a word, such as "embed".
        total: Images to go through.
        start: Images of them that an earlier process went through.
        line_every_s: Seconds between log lines where there is no terminal.
    """

    def __init__(
        self, what: str, *, total: int, start: int = 0, line_every_s: float = LINE_EVERY_S
    ) -> None:
        self._what = what
        self._total = total
        self._start = self._done = start
        self._line_every_s = line_every_s
        self._start_s = self._last_line_s = time.monotonic()
        self._on_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=start,
            desc=what,
            unit="image",
            disable=not self._on_terminal,
            dynamic_ncols=True,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def advance(self, images: int) -> None:
        """Count so many more images as done."""
        self._done += images
        self._bar.update(images)
        now_s = time.monotonic()
        if self._on_terminal or now_s - self._last_line_s < self._line_every_s:
            return
        self._last_line_s = now_s
        rate = (self._done - self._start) / max(now_s - self._start_s, 1e-9)
        left_s = (self._total - self._done) / max(rate, 1e-9)
        logger.info(
            "%s: %d of %d images, %.1f images/s, %s left",
            *(self._what, self._done, self._total, rate, tqdm.format_interval(left_s)),
        )
