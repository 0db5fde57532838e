"""Speed of pretraining: stages, whole steps against the original's way, and whole runs.

    python benchmarks/train_speed.py                                  # on a GPU, or on a CPU
    python benchmarks/train_speed.py --device cpu --archs vit_tiny --batches 8
    python benchmarks/train_speed.py --runs --baseline ~/dino         # files, caches, the original
    python benchmarks/train_speed.py --processes 1 2 4 --device cpu
    python benchmarks/train_speed.py --startup 1000 10000 100000 1000000

Without ``--data``, photos of scikit-image are made, 500x375 pixels each. Stages are medians with
the device waited for at both ends of each. Whole steps are timed without waiting in between; ours
and the original's are taken in turn, and the ratio is the median over the rounds. The share of the
peak is that of the largest rate that a matrix product reaches here; GiB is what a step takes on a
GPU beyond weights, optimizer and gradients. Runs of ``--runs``, ``--processes`` and ``--startup``
share ``--minutes``; one that cannot run says so in its row.
"""

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from input_stages import print_input
from original_step import OriginalLearner
from stopwatch import timed, timed_rounds
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from train_runs import photos, print_processes, print_runs, print_startup

from dino_infer.devices import AUTOCAST
from dino_infer.networks.build import build_backbone
from dino_train import optim
from dino_train.distributed import Process
from dino_train.head import DINOHead
from dino_train.learner import Learner, Rates
from dino_train.loss import Center, DINOLoss
from dino_train.student_teacher import MultiCropNetwork, teacher_of, update_teacher

RATES = Rates(lr=1e-4, weight_decay=0.04, momentum=0.996, teacher_temp=0.04)
DEFAULTS: dict[str, tuple[list[str], list[int]]] = {
    "cpu": (["vit_tiny"], [8]),
    "cuda": (["vit_small", "vit_base"], [64, 128, 256]),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for and print tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device, choices=list(DEFAULTS))
    parser.add_argument("--archs", nargs="+", help="default: by device")
    parser.add_argument("--batches", nargs="+", type=int, help="images a step; default: by device")
    parser.add_argument("--out-dim", type=int, default=65_536)
    parser.add_argument("--global-size", type=int, default=224)
    parser.add_argument("--local-size", type=int, default=96)
    parser.add_argument("--local-crops", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7, help="after one that does not count")
    parser.add_argument("--compile", action="store_true", help="time compiled networks, too")
    parser.add_argument("--data", help="images, as dino-train takes them; default: photos made")
    parser.add_argument("--runs", action="store_true", help="time whole runs of dino-train")
    parser.add_argument("--baseline", help="checkout of the original, whose script is timed, too")
    parser.add_argument("--steps", type=int, default=30, help="length of the runs")
    workers = min(16, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=workers, help="that decode in the runs")
    parser.add_argument("--processes", nargs="+", type=int, help="runs with so many processes")
    parser.add_argument("--startup", nargs="+", type=int, help="files; time to the first step")
    parser.add_argument("--minutes", type=float, default=9, help="for all runs of a call together")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU; give --device cpu")
    print(versions(options.device), flush=True)
    if options.startup:
        print_startup(options)
    elif options.processes:
        print_processes(options)
    elif options.runs or options.baseline:
        print_runs(options)
    else:
        print_steps(options)
    return 0


def print_steps(options: argparse.Namespace) -> None:
    """Stages of the input, then steps and their stages, of each architecture and batch size."""
    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    peaks = {name: matmul_rate(options.device, dtype) for name, dtype in kinds.items()}
    rates = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in peaks.items())
    print(f"matrix products reach, in TFLOP/s: {rates}")
    archs, batches = DEFAULTS[options.device]
    with photos(options.data) as images:
        for batch in options.batches or batches:
            print_input(options, images, batch)
    for arch in options.archs or archs:
        for batch in options.batches or batches:
            crops = random_crops(options, batch)
            print(f"\n{arch}, {batch} images, {options.out_dim:,} prototypes", flush=True)
            print_whole_steps(options, arch, crops, peaks)
            for precision in ("fp32", "bf16"):
                print_stages(options, arch, crops, precision)


def print_whole_steps(
    options: argparse.Namespace, arch: str, crops: list[Tensor], peaks: dict[str, float]
) -> None:
    """Steps of all ways in turn, with ratios to the original's."""
    batch = crops[0].shape[1]
    ways = {name: way for name, way in step_ways(options, arch, crops).items() if fits(name, way)}
    if not ways:
        return
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory_gib = dict.fromkeys(ways, float("nan"))
    for _ in range(options.rounds):
        for name, way in ways.items():
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            seconds[name].append(timed(way, options.device))
            if options.device == "cuda":
                memory_gib[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
    counter = FlopCounterMode(display=False)
    with counter:
        next(way for name, way in ways.items() if "compiled" not in name)()
    flops = counter.get_total_flops()
    print(f"{flops / batch / 1e9:.1f} GFLOP an image")
    print(f"{'':20}{'ms':>9}{'min':>9}{'max':>9}{'images/s':>10}{'of peak':>9}{'faster':>8}  GiB")
    nothing = [float("nan")] * options.rounds
    for name, times in seconds.items():
        middle = statistics.median(times)
        pairs = zip(seconds.get("original fp32", nothing), times, strict=True)
        ratio = statistics.median(theirs / ours for theirs, ours in pairs)
        peak = peaks["bf16" if "bf16" in name else "fp32"]
        print(
            f"{name:20}{middle * 1e3:9.1f}{min(times) * 1e3:9.1f}{max(times) * 1e3:9.1f}"
            f"{batch / middle:10.1f}{flops / middle / peak:9.0%}{ratio:7.2f}x"
            f"{memory_gib[name]:5.1f}",
            flush=True,
        )


def step_ways(
    options: argparse.Namespace, arch: str, crops: list[Tensor]
) -> dict[str, Callable[[], object]]:
    """A step of the original and of ours in each precision, by name."""
    original = OriginalLearner(*networks(options, arch), options.out_dim)
    ways: dict[str, Callable[[], object]] = {"original fp32": lambda: original.step(crops)}
    for precision in ("fp32", "bf16"):
        for compiled in (False, True)[: 1 + options.compile]:
            ours = learner(options, arch, precision, compiled=compiled)
            name = f"ours {precision}" + (" compiled" if compiled else "")
            ways[name] = lambda ours=ours: ours.step([crops], rates=RATES)
    return ways


def fits(name: str, way: Callable[[], object]) -> bool:
    """Whether the memory of the GPU suffices; this first round does not count."""
    try:
        way()
    except torch.cuda.OutOfMemoryError:
        print(f"{name}: not measured, it does not fit the memory", flush=True)
    else:
        return True
    torch.cuda.empty_cache()
    return False


def print_stages(
    options: argparse.Namespace, arch: str, crops: list[Tensor], precision: str
) -> None:
    """Milliseconds of the parts of our step, in a line."""
    ours = learner(options, arch, precision)
    if fits(f"{precision} stages", lambda: ours.step([crops], rates=RATES)):
        taken = stages(ours, crops, precision, options.rounds)
        words = ", ".join(f"{name} {ms:.1f}" for name, ms in taken.items())
        print(f"{precision} stages in ms: {words}", flush=True)


def stages(ours: Learner, crops: list[Tensor], precision: str, rounds: int) -> dict[str, float]:
    """Milliseconds of the parts of a step, each waited for; medians."""
    device = crops[0].device.type
    dtype = AUTOCAST.get(precision, torch.float32)
    kept: dict[str, Any] = {}

    def autocast() -> torch.autocast:
        return torch.autocast(device, dtype=dtype, enabled=precision != "fp32")

    def run_teacher() -> None:
        ours.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad(), autocast():
            kept["teacher"] = ours._run_teacher(crops[0])[0]  # compiled where steps are

    def run_student() -> None:
        with autocast():
            kept["student"] = ours._run_student(*crops)[0]

    def compute_loss() -> None:
        loss = DINOLoss(ours.student.head.last_layer, ours.teacher.head.last_layer, dtype=dtype)
        terms = loss(kept["student"], kept["teacher"], ours.center, teacher_temp=RATES.teacher_temp)
        kept["loss"], kept["mean"] = terms.loss, terms.mean_logits

    def optimize() -> None:
        norms = optim.clip_each_gradient(ours.student.parameters(), 3.0)
        optim.set_rates(ours.optimizer, lr=RATES.lr, weight_decay=RATES.weight_decay)
        optim.step_if(ours.optimizer, norms.isfinite().all())

    def move_averages() -> None:
        update_teacher(ours.teacher, ours.student, momentum=RATES.momentum)
        ours.center.update(kept["mean"])

    parts: dict[str, Callable[[], object]] = {
        "teacher": run_teacher,
        "student": run_student,
        "loss with last layer": compute_loss,
        "backward": lambda: kept["loss"].backward(),
        "clip and optimizer": optimize,
        "EMA and centre": move_averages,
    }
    taken = timed_rounds(parts, device, rounds=rounds)
    return {name: 1e3 * statistics.median(values) for name, values in taken.items()}


def networks(options: argparse.Namespace, arch: str) -> tuple[MultiCropNetwork, MultiCropNetwork]:
    """Student and teacher with the same weights, in every way's start."""
    torch.manual_seed(0)
    pair = []
    for _ in range(2):
        backbone = build_backbone(arch, image_size=options.global_size)
        head = DINOHead(backbone.embed_dim, options.out_dim)
        pair.append(MultiCropNetwork(backbone, head).to(options.device))
    return pair[0], teacher_of(*pair)


def learner(
    options: argparse.Namespace, arch: str, precision: Any, *, compiled: bool = False
) -> Learner:
    """Ours, as ``train`` makes it."""
    student, teacher = networks(options, arch)
    device = torch.device(options.device)
    return Learner(
        student,
        teacher,
        Center(options.out_dim).to(device),
        optim.build_optimizer("adamw", optim.parameter_groups(student)),
        process=Process(rank=0, world_size=1, device=device),
        precision=precision,
        compiled=compiled,
    )


def random_crops(options: argparse.Namespace, batch: int) -> list[Tensor]:
    """One tensor a crop size, on the device."""
    kinds = [(2, options.global_size), (options.local_crops, options.local_size)]
    return [
        torch.randn(crops, batch, 3, side, side, device=options.device)
        for crops, side in kinds
        if crops
    ]


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Largest rate of a square matrix product, in FLOP/s."""
    best = 0.0
    for side in (4096, 8192) if device == "cuda" else (1024, 2048):
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        torch.mm(left, right)
        for _ in range(5):
            best = max(best, 2 * side**3 / timed(lambda a=left, b=right: torch.mm(a, b), device))
    return best


def versions(device: str) -> str:
    """What ran where, in a line."""
    where = torch.cuda.get_device_name(device) if device != "cpu" else platform.machine()
    return (
        f"{where}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch "
        f"{torch.__version__}"
    )


if __name__ == "__main__":
    sys.exit(main())
