"""Number of cores that this process may use; imports nothing heavy."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

MOST_WORKERS = 8
_GROUPS, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cores() -> int:
    """Cores that this process may use: those it is bound to, within the limit of its container."""
    if hasattr(os, "sched_getaffinity"):
        bound = len(os.sched_getaffinity(0))
    else:
        bound = os.cpu_count() or 1
    return min(bound, container_cores() or bound)


def default_workers() -> int:
    """Processes that read training images where no number is given: one a core, up to 8."""
    return min(MOST_WORKERS, cores())


def container_cores(groups: Path = _GROUPS, mount: Path = _MOUNT) -> int | None:
    """Cores that the control groups of this process allow, rounded up; None without a limit.

    Args:
        groups: The file that lists the control groups of the process.
        mount: Place of their folders.
    """
    try:
        lines = groups.read_text().splitlines()
    except OSError:  # no Linux
        return None
    quotas = [quota for line in lines for quota in _quotas(line, mount)]
    return max(1, math.ceil(min(quotas))) if quotas else None


def _quotas(line: str, mount: Path) -> Iterator[float]:
    """Limits of one control group and of those around it, in cores."""
    _, controllers, path = line.split(":", 2)
    if controllers and "cpu" not in controllers.split(","):
        return
    # Version 2 has one tree, version 1 one for each set of controllers.
    trees = {mount / controllers, mount / "cpu"} if controllers else {mount}
    for tree in trees:
        group = tree / path.lstrip("/")
        # Inside a container the path may be that of the host, and its folder not be there.
        for folder in (group, *group.parents):
            quota = _version_1(folder) if controllers else _version_2(folder)
            if quota is not None:
                yield quota
            if folder == tree:
                break


def _version_1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _version_2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # "max" is no limit
        return None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
