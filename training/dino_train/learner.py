"""Algorithm 1 of the paper: student, teacher, centre and optimizer, which learn a batch at a time.

Nothing here waits for the device: numbers stay on it until they are read, and a step that is not
finite is skipped by a flag that the host never sees.
"""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dino_infer.devices import AUTOCAST
from dino_infer.weights.fitting import load_weights
from dino_train.coding_rate import CodingRateLoss, RateTerms
from dino_train.distributed import PendingMean, Process, data_parallel
from dino_train.head import DINOHead, WeightNormLinear
from dino_train.health import SkippedSteps, rate_health, step_health
from dino_train.loss import Center, DINOLoss, LossTerms
from dino_train.optim import GuardedUpdate
from dino_train.student_teacher import (
    MultiCropNetwork,
    Outputs,
    update_teacher,
    use_plain_attention,
)

CropGroups = Sequence[Float[Tensor, "_crops batch 3 _height _width"]]
"""Global crops, then local crops if there are any: one tensor a size."""

Terms = LossTerms | RateTerms


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Values of the schedules at one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float | None = None
    """None for losses without temperatures."""


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """Result of one step; the numbers stay on the device until they are read."""

    applied: Bool[Tensor, ""]
    """False where a number was not finite: the step was skipped."""
    grad_norm: Float[Tensor, ""]
    """L2 norm of the whole gradient before clipping."""
    health: dict[str, Tensor]
    """Health of the step, see ``step_health`` and ``rate_health`` of ``dino_train.health``."""


class StepMeans:
    """Means of the terms of a loss over the parts of a batch, in one tensor."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._like: list[Terms] = []

    def add(self, terms: Terms, *, weight: float) -> None:
        """Add the terms of one part of the batch."""
        self._rows.append(torch.cat([term.detach().reshape(-1) for term in terms]) * weight)
        self._like = [terms]

    def flat(self) -> Float[Tensor, " numbers"]:
        """All means in a row, which processes can average."""
        return functools.reduce(torch.add, self._rows)

    def named(self, flat: Float[Tensor, " numbers"]) -> Terms:
        """Return such a row as the terms that it holds."""
        (like,) = self._like
        parts = torch.split(flat, [term.numel() for term in like])
        return type(like)(*(part.view_as(term) for part, term in zip(parts, like, strict=True)))


class Learner:
    """Student, teacher, centre and optimizer, which learn one batch at a time.

    Args:
        student: Network that learns by gradient.
        teacher: Frozen copy of the student, which follows as a moving average.
        center: Running mean of the teacher's logits; None with ``coding_rate``.
        optimizer: Optimizer of the student's parameters, from ``optim.build_optimizer``.
        process: This process; with several, gradients and centre are averaged.
        coding_rate: Loss of networks without prototypes; None learns by ``DINOLoss``.
        teacher_sees: Let the teacher see the global crops and give the targets. Without it, which
            ``coding_rate`` alone allows, the student's global crops are one another's targets, and
            the teacher is no more than the average of the weights.
        precision: Arithmetic of the forward passes.
        student_temp: Softmax temperature of the student.
        clip_grad: Bound on the norm of each gradient tensor; 0 disables clipping.
        compiled: Compile both networks.
    """

    def __init__(
        self,
        student: MultiCropNetwork,
        teacher: MultiCropNetwork,
        center: Center | None,
        optimizer: torch.optim.Optimizer,
        *,
        process: Process,
        coding_rate: CodingRateLoss | None = None,
        teacher_sees: bool = True,
        precision: Literal["bf16", "fp16", "fp32"] = "fp32",
        student_temp: float = 0.1,
        clip_grad: float = 3.0,
        compiled: bool = False,
    ) -> None:
        if process.device.type == "cpu" and precision == "bf16":
            for network in (student, teacher):
                use_plain_attention(network.backbone)
        self.student = student
        self.teacher = teacher
        self.center = center
        self.optimizer = optimizer
        # The modules themselves stay as they are: others read their weights and embed with them.
        runs: list[Any] = [torch.compile(net) if compiled else net for net in (student, teacher)]
        self._run_student, self._run_teacher = data_parallel(runs[0], process), runs[1]
        self._device = process.device
        self._dtype = AUTOCAST.get(precision)
        self._teacher_sees_images = teacher_sees
        self._coding_rate = coding_rate
        if coding_rate is None:
            self._dino = DINOLoss(
                _last_layer(student),
                _last_layer(teacher),
                student_temp=student_temp,
                # float16 would lose the small probabilities.
                dtype=torch.bfloat16 if self._dtype == torch.bfloat16 else torch.float32,
            )
        self._update = GuardedUpdate(
            optimizer,
            self._run_student,
            buffers=[*student.buffers(), *teacher.buffers()],
            scaled=precision == "fp16",
            clip_grad=clip_grad,
            device=process.device,
        )

    def step(
        self,
        parts: Sequence[CropGroups],
        *,
        rates: Rates,
        freeze_last_layer: bool = False,
        freeze_backbone: bool = False,
    ) -> StepOutcome:
        """Learn from one batch, given in one or more equal parts: algorithm 1 of the paper.

        Args:
            parts: The crops of each part; gradients are accumulated over them.
            rates: Learning rate, weight decay, momentum and temperature of this step.
            freeze_last_layer: Leave the head's last layer as it is.
            freeze_backbone: Leave the backbone as it is.
        """
        means = StepMeans()
        self._update.begin()
        for number, crops in enumerate(parts):
            last = number == len(parts) - 1
            taught = self._teacher_sees(crops[0]) if self._teacher_sees_images else None
            with self._update.synchronised(last=last):
                outputs = self._student_sees(crops)
                targets = outputs.first(len(crops[0])) if taught is None else taught
                terms = self._loss(outputs, targets, rates)
                means.add(terms, weight=1 / len(parts))
                if last:  # travels while gradients are computed
                    pending = PendingMean(means.flat())
                self._update.backward(terms.loss / len(parts))
        shared = pending.value()
        frozen: list[nn.Module] = [_last_layer(self.student)] if freeze_last_layer else []
        frozen += [self.student.backbone] if freeze_backbone else []
        applied, grad_norm = self._update.apply(
            lr=rates.lr, weight_decay=rates.weight_decay, frozen=frozen, numbers=shared
        )
        update_teacher(
            self.teacher,
            self.student,
            momentum=rates.momentum,
            applies=applied,
            sees_images=self._teacher_sees_images,
        )
        mean = means.named(shared)
        if self.center is not None and isinstance(mean, LossTerms):
            self.center.update(mean.mean_logits, applies=applied)
        health = self._health(means.named(means.flat()), targets.features[0])
        return StepOutcome(applied=applied, grad_norm=grad_norm, health=health)

    @property
    def skipped(self) -> SkippedSteps:
        """Counts of the steps that were not finite."""
        return self._update.skipped

    def prototypes(self) -> Float[Tensor, "out_dim bottleneck"] | None:
        """Return the rows of the teacher's last layer, or None without one."""
        return None if self.center is None else _last_layer(self.teacher).weight_v

    def state(self) -> dict[str, Any]:
        """Everything that steps change, as tensors and plain types."""
        return {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "center": {} if self.center is None else self.center.state_dict(),
            **self._update.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        if self.center is not None:
            self.center.load_state_dict(state["center"])
        self._update.load_state(state)

    def start_from(self, parts: Mapping[str, Mapping[str, Tensor]], *, source: str) -> str:
        """Take given weights into student and teacher, and tell which.

        Args:
            parts: ``backbone``, and ``head`` and ``center`` where there are any.
            source: Name of the weights for messages.

        Raises:
            CheckpointError: The weights do not fit the backbone.
        """
        head, center = parts.get("head", {}), parts.get("center", {})
        networks = self.student, self.teacher
        for network in networks:
            load_weights(network.backbone, parts["backbone"], source=source)
        if not _same_shapes(head, self.student.head):
            return "with a new head"
        for network in networks:
            network.head.load_state_dict(head)
        if self.center is None:
            return "with its head"
        if not _same_shapes(center, self.center):
            return "with its head, but without a centre, which starts at 0"
        self.center.load_state_dict(center)
        return "with its head and centre"

    @torch.no_grad()
    def _teacher_sees(self, global_crops: Tensor) -> Outputs:
        """Outputs for the global crops, without gradient."""
        with self._autocast():
            return self._run_teacher(global_crops)  # type: ignore[no-any-return]

    def _student_sees(self, crops: CropGroups) -> Outputs:
        """Outputs for all crops."""
        with self._autocast():
            return self._run_student(*crops)  # type: ignore[no-any-return]

    def _loss(self, outputs: Outputs, targets: Outputs, rates: Rates) -> Terms:
        """Loss of the student's outputs, in float32 whatever the networks compute in."""
        student, wanted = outputs.bottlenecks, targets.bottlenecks
        if self._coding_rate is not None:
            return self._coding_rate(student, wanted)
        assert self.center is not None and rates.teacher_temp is not None, "settings of DINO's loss"
        return self._dino(student, wanted, self.center, teacher_temp=rates.teacher_temp)

    def _health(self, terms: Terms, features: Tensor) -> dict[str, Tensor]:
        """Numbers of the step in this process."""
        if isinstance(terms, RateTerms):
            return rate_health(**terms._asdict(), features=features)
        assert self.center is not None
        return step_health(
            loss=terms.loss,
            teacher_entropy=terms.teacher_entropy,
            features=features,
            center=self.center.center,
        )

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)


def _last_layer(network: MultiCropNetwork) -> WeightNormLinear:
    """Prototypes of a network."""
    head = network.head
    assert isinstance(head, DINOHead), "DINO's loss needs a head with prototypes"
    return head.last_layer


def _same_shapes(weights: Mapping[str, Tensor], module: nn.Module) -> bool:
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    return expected == {name: tensor.shape for name, tensor in weights.items()}
