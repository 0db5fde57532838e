"""The colour scale of a video: it follows the scene from frame to frame without flickering."""

from typing import NamedTuple

import numpy as np

MOMENTUM = 0.9  # per frame drawn


class Scale(NamedTuple):
    """The values that are drawn darkest and brightest."""

    low: float
    high: float

    @classmethod
    def after(cls, before: "Scale | None", values: np.ndarray) -> "Scale":
        """The running mean of the lowest and the highest value, with those of one more frame."""
        now = cls(float(values.min()), float(values.max()))
        if before is None:
            return now
        pairs = zip(before, now, strict=True)
        return cls(*(MOMENTUM * old + (1 - MOMENTUM) * new for old, new in pairs))
