"""Which share of a job one of several processes does: ``--shard i/n``, or what launchers say."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

LAUNCHERS = (  # number of this process, number of all, first number
    ("RANK", "WORLD_SIZE", None),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("SLURM_PROCID", "SLURM_NTASKS", None),
)


@dataclass(frozen=True)
class Share:
    """Part ``index`` of ``count``, from 0."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def slice_of(self, total: int, *, step: int) -> range:
        """The consecutive items of this share; shares begin at multiples of ``step``.

        So batches hold the same images whatever the number of shares, and rows stay the same bit
        for bit.
        """
        steps = -(-total // step)
        start, stop = (steps * at // self.count * step for at in (self.index, self.index + 1))
        return range(min(start, total), min(stop, total))


def share_of(text: str, environment: Mapping[str, str] | None = None) -> Share:
    """The share that a flag means.

    Args:
        text: "2/8" for the third of eight, or "auto" for what torchrun or SLURM set.
        environment: Variables of the process; its own by default.

    Raises:
        ValueError: The text is of another form or the share is out of range; with "auto", no
            launcher says which share this is.
    """
    if text == "auto":
        return _of_launcher(os.environ if environment is None else environment)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise ValueError(f"a shard is INDEX/COUNT from 0, such as 0/8, or auto; got {text!r}")
    return _checked(int(found[1]), int(found[2]), text)


def launched_with(environment: Mapping[str, str] | None = None) -> int:
    """How many processes torchrun started for this job; 1 without it."""
    return int((os.environ if environment is None else environment).get("WORLD_SIZE", "1"))


def device_of_share(device: str, environment: Mapping[str, str] | None = None) -> str:
    """The device meant by "auto" when torchrun started one process for each GPU of a machine."""
    local_rank = (os.environ if environment is None else environment).get("LOCAL_RANK")
    if device != "auto" or local_rank is None:
        return device
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{int(local_rank) % gpus}" if gpus else "cpu"


def _of_launcher(environment: Mapping[str, str]) -> Share:
    for index, count, first in LAUNCHERS:
        if index in environment and count in environment:
            start = int(environment.get(first, "0")) if first else 0
            number, total = int(environment[index]) - start, int(environment[count])
            return _checked(number, total, f"{index}={environment[index]}")
    names = ", ".join(f"{index} and {count}" for index, count, _ in LAUNCHERS)
    raise ValueError(f"shard auto needs one of {names} in the environment; pass INDEX/COUNT")


def _checked(index: int, count: int, text: str) -> Share:
    if not 0 <= index < count:
        raise ValueError(f"a shard must lie in 0/{count} to {count - 1}/{count}, got {text!r}")
    return Share(index, count)
