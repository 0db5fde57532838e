"""Processor and wall seconds from the start of a training script to its first optimizer step.

    python benchmarks/first_step.py SCRIPT [ARGUMENTS ...]

Any script that steps an optimizer of PyTorch; its workers count too, and all of it is killed after
the step. Linux only.
"""

import os
import runpy
import signal
import sys
import time
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook


def main() -> None:
    """Run the script until its first step."""
    born_s = _stat(os.getpid())[2]
    os.setpgrp()

    def ended(*_: Any) -> None:
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        print(f"{_cpu_s():.1f} CPU s, {uptime_s - born_s:.1f} s to the first step", flush=True)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    register_optimizer_step_post_hook(ended)
    del sys.argv[0]
    began = time.monotonic()
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit(f"{sys.argv[0]} ended after {time.monotonic() - began:.0f} s without a step")


def _stat(pid: int) -> tuple[int, float, float]:
    """Process group, processor seconds, and the seconds after boot at which it began."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return int(fields[2]), sum(map(int, fields[11:15])) / tick, int(fields[19]) / tick


def _cpu_s() -> float:
    """Processor seconds of the process group."""
    total = 0.0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            group, cpu_s, _ = _stat(int(entry.name))
        except OSError:  # it ended
            continue
        total += cpu_s if group == os.getpgrp() else 0
    return total


if __name__ == "__main__":
    main()
