"""Loss and last layer, forward and backward: sliced, against the original's formulation.

    python benchmarks/loss_speed.py
    python benchmarks/loss_speed.py --images 128 --device cuda

The original forms all logits, and a log-softmax for each of the 18 pairs of 2 + 8 crops. Every
round times each way once, in turn, so that other work on the machine hits all of them; a ratio is
the median over the rounds. Peaks of memory are measured in a process for each way, beyond inputs
and weights (Linux).
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from original_step import original_loss
from torch import Tensor

from dino_train.head import WeightNormLinear
from dino_train.loss import Center, DINOLoss, dino_loss

STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.04
TOLERANCE = 1e-5  # nats, and relative to the largest entry of a gradient, in fp32


class Case:
    """Bottlenecks, two last layers and a centre."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        device = torch.device(options.device)

        def bottlenecks(crops: int) -> Tensor:
            size = (crops, options.images, options.bottleneck)
            return F.normalize(torch.randn(size, device=device), dim=-1)

        self.student = bottlenecks(options.crops).requires_grad_()
        self.teacher = bottlenecks(2)
        self.layer, self.teacher_layer = (
            WeightNormLinear(options.bottleneck, options.out_dim, train_norm=False).to(device)
            for _ in range(2)
        )
        self.center = Center(options.out_dim).to(device)

    def original(self) -> Tensor:
        """All logits, a log-softmax for each pair."""
        with torch.no_grad():
            teacher = self.teacher_layer(self.teacher.flatten(0, 1))
        student = self.layer(self.student.flatten(0, 1))
        center = self.center.center[None]
        loss = original_loss(student, teacher, center, student_temp=STUDENT_TEMP, temp=TEACHER_TEMP)
        loss.backward()
        self.center.update(teacher.sum(dim=0) / len(teacher))
        return loss.detach()

    def plain(self) -> Tensor:
        """``dino_loss`` on all logits."""
        with torch.no_grad():
            teacher = self.teacher_layer(self.teacher)
            targets = self.center.targets(teacher, teacher_temp=TEACHER_TEMP)
        loss = dino_loss(self.layer(self.student), targets, student_temp=STUDENT_TEMP)
        loss.backward()
        self.center.update(teacher.mean(dim=(0, 1)))
        return loss.detach()

    def sliced(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """``DINOLoss``, as training runs it."""
        loss = DINOLoss(self.layer, self.teacher_layer, student_temp=STUDENT_TEMP, dtype=dtype)
        terms = loss(self.student, self.teacher, self.center, teacher_temp=TEACHER_TEMP)
        terms.loss.backward()
        self.center.update(terms.mean_logits)
        return terms.loss.detach()

    def ways(self) -> dict[str, Callable[[], Tensor]]:
        """What is compared; the original first."""
        return {
            "original": self.original,
            "plain": self.plain,
            "sliced": self.sliced,
            "sliced bf16": lambda: self.sliced(torch.bfloat16),
        }

    def forget(self) -> None:
        """As before any way was tried."""
        self.student.grad = self.layer.weight_v.grad = None
        self.center.center.zero_()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and return 1 if two ways disagree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--crops", type=int, default=10)
    parser.add_argument("--out-dim", type=int, default=65_536)
    parser.add_argument("--bottleneck", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--peak-of", default="", help="print the peak memory of one way and stop")
    options = parser.parse_args(arguments)
    case = Case(options)
    if options.peak_of:
        print(peak_mib(case, options.peak_of))
        return 0
    print(
        f"{options.images} images x {options.crops} crops x {options.out_dim:,}, bottleneck "
        f"{options.bottleneck}, {options.rounds} rounds\n{versions(options.device)}"
    )
    seconds = timed_rounds(case, rounds=options.rounds)
    own = [value for value in sys.argv[1:] if arguments is None] or list(arguments or ())
    peaks = {name: measured_peak(own, name) for name in seconds}
    print(
        f"{'':14}{'median s':>10}{'min s':>9}{'max s':>9}{'faster':>9}{'peak MiB':>10}{'share':>8}"
    )
    for name, taken in seconds.items():
        pairs = zip(seconds["original"], taken, strict=True)
        ratio = statistics.median(theirs / ours for theirs, ours in pairs)
        print(
            f"{name:14}{statistics.median(taken):10.3f}{min(taken):9.3f}{max(taken):9.3f}"
            f"{ratio:8.2f}x{peaks[name]:10.0f}{peaks[name] / peaks['original']:8.2f}"
        )
    return compared(case)


def timed_rounds(case: Case, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round, in turn; one more round comes first."""
    ways = case.ways()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            case.forget()
            start = time.perf_counter()
            way()
            if case.student.is_cuda:
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measured_peak(arguments: Sequence[str], name: str) -> float:
    """Peak memory of one way in MiB, in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--peak-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_mib(case: Case, name: str) -> float:
    """Memory that one way adds to what inputs and weights take."""
    if case.student.is_cuda:
        before = torch.cuda.memory_allocated()
        case.ways()[name]()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # The high-water mark of a process starts at that of its parent, so it is reset first.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_mib("VmRSS")
    case.ways()[name]()
    return _status_mib("VmHWM") - before


def _status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith(field + ":"))


def compared(case: Case) -> int:
    """Print how far losses and gradients are apart; 1 where fp32 ones differ."""
    found = {}
    for name, way in case.ways().items():
        case.forget()
        loss = way()
        found[name] = loss, case.student.grad.clone(), case.layer.weight_v.grad.clone()
    worst = 0.0
    for name in ("plain", "sliced", "sliced bf16"):
        apart = [
            ((a - b).abs().max() / (b.abs().max() if b.ndim else 1)).item()
            for a, b in zip(found[name], found["original"], strict=True)
        ]
        print(f"{name}: loss {apart[0]:.1e} nats, gradients {max(apart[1:]):.1e} of their largest")
        worst = worst if name == "sliced bf16" else max(worst, *apart)
    return int(worst > TOLERANCE)


def versions(device: str) -> str:
    """What ran where, in a line."""
    where = torch.cuda.get_device_name(device) if device != "cpu" else platform.machine()
    return (
        f"{where}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch "
        f"{torch.__version__}"
    )


if __name__ == "__main__":
    sys.exit(main())
