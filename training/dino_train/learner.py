"""Algorithm 1 of the paper: student, teacher, centre and optimizer, which learn a batch at a time.

Nothing here waits for the device: numbers stay on it until they are read, and a step that is not
finite is skipped by a flag that the host never sees.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dino_infer.devices import AUTOCAST
from dino_infer.weights.fitting import load_weights
from dino_train.distributed import PendingMean, Process, data_parallel
from dino_train.health import SkippedSteps, step_health
from dino_train.loss import Center, DINOLoss, LossTerms
from dino_train.optim import GuardedUpdate
from dino_train.student_teacher import MultiCropNetwork, update_teacher, use_plain_attention

CropGroups = Sequence[Float[Tensor, "_crops batch 3 _height _width"]]
"""Global crops, then local crops if there are any: one tensor a size."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Values of the schedules at one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """Result of one step; the numbers stay on the device until they are read."""

    applied: Bool[Tensor, ""]
    """False where a number was not finite: the step was skipped."""
    grad_norm: Float[Tensor, ""]
    """L2 norm of the whole gradient before clipping."""
    health: dict[str, Tensor]
    """Health of the step, see ``dino_train.health.step_health``."""


@dataclass(frozen=True)
class StepMeans:
    """Mean loss, mean entropy of the targets and mean logits of the teacher, in one tensor."""

    flat: Float[Tensor, " numbers"]

    @classmethod
    def zeros(cls, out_dim: int, device: torch.device) -> "StepMeans":
        """Return means of no terms yet."""
        return cls(torch.zeros(2 + out_dim, device=device))

    def add(self, terms: LossTerms, *, weight: float) -> None:
        """Add the terms of one part of the batch."""
        numbers = torch.stack([terms.loss.detach(), terms.teacher_entropy])
        self.flat.add_(torch.cat([numbers, terms.mean_logits]) * weight)

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Loss in nats."""
        return self.flat[0]

    @property
    def teacher_entropy(self) -> Float[Tensor, ""]:
        """Entropy of the targets in nats."""
        return self.flat[1]

    @property
    def logits(self) -> Float[Tensor, " out_dim"]:
        """Logits of the teacher."""
        return self.flat[2:]


class Learner:
    """Student, teacher, centre and optimizer, which learn one batch at a time.

    Args:
        student: Learns by gradient.
        teacher: Its frozen copy, which follows as a moving average.
        center: Running mean of the teacher's logits.
        optimizer: Over the student's parameters, from ``optim.build_optimizer``.
        process: This process; with several, gradients and centre are averaged.
        precision: Arithmetic of the forward passes.
        student_temp: Softmax temperature of the student.
        clip_grad: Bound on the norm of each gradient tensor; 0 disables clipping.
        compiled: Compile both networks.
    """

    def __init__(
        self,
        student: MultiCropNetwork,
        teacher: MultiCropNetwork,
        center: Center,
        optimizer: torch.optim.Optimizer,
        *,
        process: Process,
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
        self._loss = DINOLoss(
            student.head.last_layer,
            teacher.head.last_layer,
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
        means = StepMeans.zeros(len(self.center.center), self._device)
        self._update.begin()
        for number, crops in enumerate(parts):
            last = number == len(parts) - 1
            targets, features = self._teacher_sees(crops[0])
            with self._update.synchronised(last=last):
                outputs = self._student_sees(crops)
                terms = self._loss(outputs, targets, self.center, teacher_temp=rates.teacher_temp)
                means.add(terms, weight=1 / len(parts))
                if last:  # travels while gradients are computed
                    pending = PendingMean(means.flat)
                self._update.backward(terms.loss / len(parts))
        shared = StepMeans(pending.value())
        frozen: list[nn.Module] = [self.student.head.last_layer] if freeze_last_layer else []
        frozen += [self.student.backbone] if freeze_backbone else []
        applied, grad_norm = self._update.apply(
            lr=rates.lr, weight_decay=rates.weight_decay, frozen=frozen, numbers=shared.flat
        )
        update_teacher(self.teacher, self.student, momentum=rates.momentum, applies=applied)
        self.center.update(shared.logits, applies=applied)
        health = step_health(
            loss=means.loss,
            teacher_entropy=means.teacher_entropy,
            features=features[0],
            center=self.center.center,
        )
        return StepOutcome(applied=applied, grad_norm=grad_norm, health=health)

    @property
    def skipped(self) -> SkippedSteps:
        """Counts of the steps that were not finite."""
        return self._update.skipped

    def state(self) -> dict[str, Any]:
        """Everything that steps change, as tensors and plain types."""
        return {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "center": self.center.state_dict(),
            **self._update.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
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
        if not _same_shapes(center, self.center):
            return "with its head, but without a centre, which starts at 0"
        self.center.load_state_dict(center)
        return "with its head and centre"

    @torch.no_grad()
    def _teacher_sees(self, global_crops: Tensor) -> tuple[Tensor, Tensor]:
        """Bottlenecks and features of the global crops, without gradient."""
        with self._autocast():
            return self._run_teacher(global_crops)  # type: ignore[no-any-return]

    def _student_sees(self, crops: CropGroups) -> Tensor:
        """Bottlenecks of all crops."""
        with self._autocast():
            return self._run_student(*crops)[0]  # type: ignore[no-any-return]

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)


def _same_shapes(weights: Mapping[str, Tensor], module: nn.Module) -> bool:
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    return expected == {name: tensor.shape for name, tensor in weights.items()}
