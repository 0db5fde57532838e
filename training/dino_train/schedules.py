"""Values as functions of the step: learning rate, weight decay, momentum, teacher temperature."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""Optimizer step, from 0, to the value used in that step."""


def cosine_schedule(
    *, base: float, final: float, total_steps: int, warmup_steps: int = 0
) -> Schedule:
    """Linear warm-up from 0 to ``base``, then a half cosine that approaches ``final``.

    The warm-up includes both its ends, so step 0 has value 0 and ``base`` stands twice, at the
    last warm-up step and at the first cosine step, as in the original.

    Args:
        base: Value at the peak.
        final: Value approached at the end.
        total_steps: Length of the run, warm-up included.
        warmup_steps: Length of the warm-up.

    Raises:
        ValueError: The warm-up is not shorter than the run.
    """
    if not 0 <= warmup_steps < max(total_steps, 1):
        raise ValueError(
            f"warmup_steps must lie in [0, total_steps={total_steps}), got {warmup_steps}; "
            "lower the warm-up epochs or train longer"
        )
    cosine_steps = total_steps - warmup_steps

    def value(step: int) -> float:
        if step < warmup_steps:
            return base * step / (warmup_steps - 1) if warmup_steps > 1 else 0.0
        progress = min(step - warmup_steps, cosine_steps) / cosine_steps
        return final + 0.5 * (base - final) * (1 + math.cos(math.pi * progress))

    return value


def teacher_temp_schedule(
    *, warmup_temp: float, temp: float, warmup_epochs: int, steps_per_epoch: int
) -> Schedule:
    """Linear rise by epochs from ``warmup_temp`` to ``temp``, reached in epoch ``warmup_epochs-1``.

    Source: https://arxiv.org/abs/2104.14294, section 3.2 (0.04 to 0.07 over 30 epochs).
    """

    def value(step: int) -> float:
        epoch = step // steps_per_epoch
        if epoch >= warmup_epochs:
            return temp
        if warmup_epochs == 1:
            return warmup_temp
        return warmup_temp + (temp - warmup_temp) * epoch / (warmup_epochs - 1)

    return value
