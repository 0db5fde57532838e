"""The update of a step as ``dino_train`` makes it, and the same written out for a compiler."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from paired_ways import Candidate, NotPossibleError, Result, Way
from torch import Tensor

from dino_train import optim
from dino_train.student_teacher import MultiCropNetwork, update_teacher

LR, WEIGHT_DECAY, MOMENTUM, MAX_NORM = 1e-4, 0.04, 0.996, 3.0
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # PyTorch's defaults
TOLERANCE = 1e-5  # relative, of parameters after a step


class PresentUpdate:
    """Clipping, guard, fused AdamW and moving average."""

    def __init__(self, student: MultiCropNetwork, teacher: MultiCropNetwork) -> None:
        self._student, self._teacher = student, teacher
        self._optimizer = optim.build_optimizer("adamw", optim.parameter_groups(student))
        optim.set_rates(self._optimizer, lr=LR, weight_decay=WEIGHT_DECAY)

    def __call__(self) -> None:
        """Change student and teacher."""
        norms = optim.clip_each_gradient(self._student.parameters(), MAX_NORM)
        applied = norms.isfinite().all()
        optim.step_if(self._optimizer, applied)
        update_teacher(self._teacher, self._student, momentum=MOMENTUM, applies=applied)


class WrittenUpdate:
    """The same without an optimizer, for a compiler: each tensor is read and written once.

    Parameters that are not trained are left out: the teacher's equal the student's.
    """

    def __init__(self, student: MultiCropNetwork, teacher: MultiCropNetwork) -> None:
        averages = dict(teacher.named_parameters())
        trained = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
        decayed = {id(p) for p in optim.parameter_groups(student)[0]["params"]}
        self._params = [p for _, p in trained]
        self._averages = [averages[name] for name, _ in trained]
        self._decays = [WEIGHT_DECAY if id(p) in decayed else 0.0 for p in self._params]
        self._firsts, self._seconds = (
            [torch.zeros_like(p) for p in self._params] for _ in range(2)
        )
        device = self._params[0].device
        self._count = torch.zeros((), device=device)
        self._lr = torch.tensor(LR, device=device)  # a number would be compiled in

    @torch.no_grad()
    def __call__(self) -> None:
        """Change student and teacher."""
        grads: list[Tensor] = [p.grad for p in self._params]
        norms = torch.stack([grad.norm() for grad in grads])
        applied = norms.isfinite().all()
        scales = (MAX_NORM / (norms + 1e-6)).clamp(max=1.0)
        self._count += applied
        first_rate = self._lr / (1 - BETA1**self._count)
        second_root = (1 - BETA2**self._count).sqrt()
        for i, param in enumerate(self._params):
            grad = grads[i] * scales[i]
            first = self._firsts[i].lerp(grad, 1 - BETA1)
            second = self._seconds[i] * BETA2 + grad * grad * (1 - BETA2)
            moved = param * (1 - self._lr * self._decays[i])
            moved = moved - first_rate * first / (second.sqrt() / second_root + EPS)
            for held, new in (
                (self._firsts[i], first),
                (self._seconds[i], second),
                (param, moved),
                (self._averages[i], self._averages[i].lerp(moved, 1 - MOMENTUM)),
            ):
                held.copy_(torch.where(applied, new, held))


def update_candidates(student: MultiCropNetwork, teacher: MultiCropNetwork) -> list[Candidate]:
    """The present update, then compiled ones; each on copies of the networks."""

    def made(name: str, make_update: Callable[..., Callable[[], None]], **how: Any) -> Candidate:
        def make() -> Way:
            pair = copy.deepcopy((student, teacher))
            fill_gradients(pair[0])
            update = make_update(*pair)
            run = torch.compile(update.__call__, dynamic=False, **how) if how else update
            return Way(run=run, result=lambda: parameters(*pair))

        return Candidate(name=name, make=make, tolerance=TOLERANCE)

    def joined(own_student: MultiCropNetwork, own_teacher: MultiCropNetwork) -> WrittenUpdate:
        if not next(own_student.parameters()).is_cuda:
            raise NotPossibleError("needs a GPU")
        return WrittenUpdate(own_student, own_teacher)

    return [
        made("fused AdamW, as now", PresentUpdate),
        made("fused AdamW, compiled", PresentUpdate, mode="default"),
        made("written out, compiled", WrittenUpdate, mode="default"),
        made("written out, compiled, kernels joined", joined, options={"combo_kernels": True}),
    ]


def fill_gradients(student: MultiCropNetwork) -> None:
    """Set gradients, the same in every call; about half of them are long enough to be clipped."""
    generator = torch.Generator().manual_seed(0)
    for parameter in student.parameters():
        if parameter.requires_grad:
            values = torch.randn(parameter.shape, generator=generator)
            length = 2 * MAX_NORM * torch.rand((), generator=generator)
            parameter.grad = (values * length / values.norm()).to(parameter.device)


def parameters(student: MultiCropNetwork, teacher: MultiCropNetwork) -> Result:
    """Copies of those of both."""
    named = {"student": student, "teacher": teacher}
    return {
        f"{owner}.{name}": parameter.detach().clone()
        for owner, network in named.items()
        for name, parameter in network.named_parameters()
    }
