"""Ways to run the networks and the update of a step, each against the present one.

    python benchmarks/forward_ways.py                     # ViT-S/16 on a GPU, vit_tiny on a CPU
    python benchmarks/forward_ways.py --arch vit_base
    OMP_NUM_THREADS=1 python benchmarks/forward_ways.py --device cpu --rounds 2

"networks" is the teacher's forward pass over the global crops, the student's over all crops and its
backward pass, in bf16, without last layer and loss; "update" is clipping, AdamW and moving average.
Stochastic depth is off. A way is timed in turn with the present one and then forgotten; "faster" is
the median over these pairs. "first s" holds compilation. "GiB" is what the device reserves for a
way beyond the weights and moments of the present one and crops. "apart" is the largest difference
of an output, gradient or parameter from the present way's, relative to the largest entry of its
tensor.

Before anything is timed, ways with the same arithmetic have to agree in fp32 to 1e-5. The script
returns 1 where they do not, or where a way is further apart than its row allows.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from other_networks import (
    Attention,
    PackedNetwork,
    attention_by_size,
    jagged_attention,
    varlen_attention,
    with_fp8,
)
from other_updates import update_candidates
from paired_ways import Candidate, Comparison, NotPossibleError, Result, Way, distance
from torch import Tensor, nn
from train_speed import networks, random_crops, versions

from dino_train.student_teacher import MultiCropNetwork

DEFAULTS: dict[str, tuple[str, list[int]]] = {
    "cpu": ("vit_tiny", [8]),
    "cuda": ("vit_small", [256, 128]),  # the more telling one first, should time run out
}
FP32_TOLERANCE = 1e-5
BF16_TOLERANCE = 0.1  # roundings of another order; a wrong kernel is apart by about 1
FP8_TOLERANCE = 0.5  # 0.12 has been seen in a small network
FP8_WIDTH = 768  # below it products are too small for fp8 to pay
CHECKED_IMAGES = 2

Pair = tuple[Callable[..., Any], Callable[..., Any]]
"""What runs the student, and what runs the teacher."""


class NetworkStep:
    """Forward passes of both networks, and backward of the student."""

    def __init__(self, pair: Pair, crops: list[Tensor], dtype: torch.dtype | None) -> None:
        self._run_student, self._run_teacher = pair
        assert isinstance(self._run_student, nn.Module)
        self._parameters = {  # under the names that they have where nothing is compiled
            name.removeprefix("_orig_mod."): parameter
            for name, parameter in self._run_student.named_parameters()
        }
        self._crops, self._dtype = crops, dtype
        self._outputs: Result = {}

    def __call__(self) -> None:
        """Take one step; gradients stay on the parameters."""
        self._outputs = {}  # lives in the pool of CUDA graphs that are run again
        for parameter in self._parameters.values():
            parameter.grad = None
        device = self._crops[0].device.type
        with torch.autocast(device, dtype=self._dtype, enabled=self._dtype is not None):
            with torch.no_grad():
                teacher_out, _ = self._run_teacher(self._crops[0])
            student_out, _ = self._run_student(*self._crops)
        slopes = torch.linspace(-1, 1, student_out.shape[-1], device=device)
        (student_out * slopes).sum().backward()
        self._outputs = {"student": student_out.detach(), "teacher": teacher_out}

    def result(self) -> Result:
        """Both outputs and all gradients."""
        grads = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        return {name: value.clone() for name, value in (self._outputs | grads).items()}


class NetworkWays:
    """Pairs that share the weights of two networks, or copies in fp8.

    Args:
        student: Learns.
        teacher: Its copy; it sees crops of one size, so that there is nothing to pack.
    """

    def __init__(self, student: MultiCropNetwork, teacher: MultiCropNetwork) -> None:
        self.student, self.teacher = student, teacher

    def same_arithmetic(self) -> dict[str, Callable[[], Pair]]:
        """Ways that differ from the present one, which is the first, in the order of sums alone."""
        student, teacher = self.student, self.teacher
        return {
            "one pass a size, as now": lambda: (student, teacher),
            "packed": lambda: (packed(student), teacher),
        }

    def in_bf16(self) -> dict[str, Callable[[], Pair]]:
        """Compilers and kernels; those that may hurt the device come last."""
        student, teacher = self.student, self.teacher
        return {
            "compiled": lambda: compiled(student, teacher),
            "packed, compiled": lambda: compiled(packed(student), teacher),
            "compiled, CUDA graphs": self._graphs,
            "packed, jagged attention": lambda: (self._packed_on_gpu(jagged_attention), teacher),
            "packed, varlen attention": lambda: (self._packed_on_gpu(varlen_attention), teacher),
            "packed, varlen attention, compiled": lambda: compiled(
                self._packed_on_gpu(varlen_attention), teacher
            ),
        }

    def in_fp8(self) -> dict[str, Callable[[], Pair]]:
        """Products of the blocks in fp8, forward alone; gradients are computed in bf16."""
        student, teacher = self.student, self.teacher
        return {
            "fp8 teacher": lambda: (student, self._fp8(teacher)),
            "fp8 forward, bf16 backward": lambda: (self._fp8(student), self._fp8(teacher)),
            "fp8 forward, bf16 backward, compiled": lambda: compiled(
                self._fp8(student), self._fp8(teacher)
            ),
        }

    def _graphs(self) -> Pair:
        self._need_cuda()
        run_student, run_teacher = compiled(self.student, self.teacher, mode="reduce-overhead")

        def marked_teacher(images: Tensor) -> Any:
            # Otherwise the student's pass begins a step, which frees what the teacher gave.
            torch.compiler.cudagraph_mark_step_begin()
            return run_teacher(images)

        return run_student, marked_teacher

    def _packed_on_gpu(self, attention: Attention) -> MultiCropNetwork:
        self._need_cuda()
        return packed(self.student, attention)

    def _fp8(self, network: MultiCropNetwork) -> MultiCropNetwork:
        self._need_cuda()
        if torch.cuda.get_device_capability() < (8, 9):
            raise NotPossibleError("fp8 needs a GPU of capability 8.9 or more")
        if network.backbone.embed_dim < FP8_WIDTH:
            raise NotPossibleError(f"fp8 is tried from an embed_dim of {FP8_WIDTH}")
        return with_fp8(network)

    def _need_cuda(self) -> None:
        if not next(self.student.parameters()).is_cuda:
            raise NotPossibleError("needs a GPU")


def packed(network: MultiCropNetwork, attention: Attention = attention_by_size) -> MultiCropNetwork:
    """See ``PackedNetwork``."""
    return PackedNetwork(network, attention)


def compiled(student: MultiCropNetwork, teacher: MultiCropNetwork, **how: Any) -> Pair:
    """Both for the sizes that come, and for no others."""
    return tuple(torch.compile(net, dynamic=False, **how) for net in (student, teacher))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and return 1 if a way differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default_device, choices=list(DEFAULTS))
    parser.add_argument("--arch", help="a Vision Transformer; default: by device")
    parser.add_argument("--batches", nargs="+", type=int, help="images a step; default: by device")
    parser.add_argument("--out-dim", type=int, default=65_536, help="weighs in the update alone")
    parser.add_argument("--global-size", type=int, default=224)
    parser.add_argument("--local-size", type=int, default=96)
    parser.add_argument("--local-crops", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7, help="pairs; warm-ups do not count")
    parser.add_argument("--without", nargs="+", default=[], help="words of rows to leave out")
    parser.add_argument("--minutes", type=float, default=8, help="no way is begun after these")
    options = parser.parse_args(arguments)
    deadline = time.monotonic() + 60 * options.minutes
    arch, batches = DEFAULTS[options.device]
    student, teacher = networks(options, options.arch or arch)
    print(
        f"{versions(options.device)}\n{student.backbone.arch}, 2x{options.global_size} + "
        f"{options.local_crops}x{options.local_size}, {options.rounds} rounds",
        flush=True,
    )
    ways = NetworkWays(student, teacher)
    failed = differing(ways, random_crops(options, CHECKED_IMAGES))
    comparison = Comparison(device=options.device, rounds=options.rounds, deadline=deadline)
    comparison.print_head()
    for batch in options.batches or batches:
        candidates = network_candidates(ways, random_crops(options, batch))
        title = f"networks, {batch} images"
        failed |= comparison.print_rows(title, chosen(candidates, options.without))
    updates = chosen(update_candidates(student, teacher), options.without)
    failed |= comparison.print_rows("update", updates)
    return int(failed)


def differing(ways: NetworkWays, crops: list[Tensor]) -> bool:
    """Print how far apart ways with the same arithmetic are in fp32; true if one is too far."""
    torch.backends.cudnn.allow_tf32 = False  # convolutions would use it
    (_, present), *others = ways.same_arithmetic().items()
    expected = run_once(present(), crops)
    failed = False
    for name, make in others:
        apart = distance(run_once(make(), crops), expected)
        failed |= apart > FP32_TOLERANCE
        print(f"fp32, {name}: {apart:.1e} of the largest entry, {FP32_TOLERANCE:.0e} is allowed")
    torch.backends.cudnn.allow_tf32 = True
    return failed


def run_once(pair: Pair, crops: list[Tensor]) -> Result:
    """Outputs and gradients in fp32."""
    step = NetworkStep(pair, crops, None)
    step()
    return step.result()


def network_candidates(ways: NetworkWays, crops: list[Tensor]) -> list[Candidate]:
    """All of them in bf16, the present one first."""

    def made(name: str, make_pair: Callable[[], Pair], tolerance: float) -> Candidate:
        def make() -> Way:
            step = NetworkStep(make_pair(), crops, torch.bfloat16)
            return Way(run=step, result=step.result)

        return Candidate(name=name, make=make, tolerance=tolerance)

    plain = ways.same_arithmetic() | ways.in_bf16()
    return [
        *(made(name, make_pair, BF16_TOLERANCE) for name, make_pair in plain.items()),
        *(made(name, make_pair, FP8_TOLERANCE) for name, make_pair in ways.in_fp8().items()),
    ]


def chosen(candidates: list[Candidate], without: list[str]) -> list[Candidate]:
    """The present way, and those whose names have none of the words."""
    first, *others = candidates
    return [first, *(way for way in others if not any(word in way.name for word in without))]


if __name__ == "__main__":
    sys.exit(main())
