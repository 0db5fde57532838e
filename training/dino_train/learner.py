"""What one optimizer step does: algorithm 1 of the paper, with clipping, scaler and freezing."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dino_infer.devices import AUTOCAST
from dino_train import optim
from dino_train.distributed import Process, any_process, data_parallel
from dino_train.health import step_health
from dino_train.loss import Center, dino_loss
from dino_train.student_teacher import MultiCropNetwork, update_teacher

CropGroups = Sequence[Float[Tensor, "_crops batch 3 _height _width"]]
"""Global crops, then local crops if there are any: one tensor a size."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What the schedules say about one step."""

    lr: float
    weight_decay: float
    momentum: float
    teacher_temp: float


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What one step did; the numbers stay on the device until somebody reads them."""

    applied: bool
    """False where a number was not finite: nothing was changed then."""
    grad_norm: Tensor
    """L2 norm of the whole gradient before clipping."""
    health: dict[str, Tensor]
    """See ``dino_train.health.step_health``."""


class Learner:
    """Student, teacher, centre and optimizer, which learn one batch at a time.

    Args:
        student: Learns by gradient.
        teacher: Its frozen copy, which follows as a moving average.
        center: Of the teacher's logits.
        optimizer: Over the student's parameters.
        process: This process; with several, gradients and centre are averaged.
        precision: Arithmetic of the forward passes.
        student_temp: Softmax temperature of the student.
        clip_grad: Bound on the norm of each gradient tensor; 0 clips nothing.
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
    ) -> None:
        self.student = student
        self.teacher = teacher
        self.center = center
        self.optimizer = optimizer
        self._parallel_student = data_parallel(student, process)
        self._device = process.device
        self._dtype = AUTOCAST.get(precision)
        self._scaler = torch.amp.GradScaler(process.device.type, enabled=precision == "fp16")
        self._student_temp = student_temp
        self._clip_grad = clip_grad

    def step(
        self,
        parts: Sequence[CropGroups],
        *,
        rates: Rates,
        freeze_last_layer: bool = False,
        freeze_backbone: bool = False,
    ) -> StepOutcome:
        """Learn from one batch, given in one or more equal parts.

        Args:
            parts: The crops of each part; gradients are accumulated over them.
            rates: Learning rate, weight decay, momentum and temperature of this step.
            freeze_last_layer: Leave the head's last layer as it is.
            freeze_backbone: Leave the backbone as it is.
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses, mean_logits = [], torch.zeros_like(self.center.center)
        for number, crops in enumerate(parts):
            with self._autocast(), torch.no_grad():
                teacher_logits, teacher_features = self.teacher(crops[0])
            targets = self.center.targets(teacher_logits, teacher_temp=rates.teacher_temp)
            with self._gradient_sync(last=number == len(parts) - 1):
                with self._autocast():
                    student_logits, _ = self._parallel_student(*crops)
                loss = dino_loss(student_logits, targets, student_temp=self._student_temp)
                self._scaler.scale(loss / len(parts)).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            mean_logits += teacher_logits.float().mean(dim=(0, 1)) / len(parts)
        mean_loss = torch.stack(losses).mean()

        self._scaler.unscale_(self.optimizer)
        norms = optim.clip_each_gradient(self.student.parameters(), self._clip_grad)
        finite = bool((mean_loss.isfinite() & norms.isfinite().all()).item())
        applied = not any_process(not finite, self._device)
        if applied:
            if freeze_last_layer:
                optim.drop_gradients(self.student.head.last_layer)
            if freeze_backbone:
                optim.drop_gradients(self.student.backbone)
            optim.set_rates(self.optimizer, lr=rates.lr, weight_decay=rates.weight_decay)
            self.optimizer.step()
            update_teacher(self.teacher, self.student, momentum=rates.momentum)
            self.center.update(mean_logits)
        if self._scaler.is_enabled():
            self._scaler.update()
        health = step_health(
            loss=mean_loss,
            teacher_probs=targets,
            features=teacher_features[0],
            center=self.center.center,
        )
        return StepOutcome(applied=applied, grad_norm=norms.norm(), health=health)

    def state(self) -> dict[str, Any]:
        """Everything that steps change, as tensors and plain types."""
        return {
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict(),
            "center": self.center.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self.student.load_state_dict(state["student"])
        self.teacher.load_state_dict(state["teacher"])
        self.center.load_state_dict(state["center"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)

    def _gradient_sync(self, *, last: bool) -> contextlib.AbstractContextManager[object]:
        """Average gradients over processes in the last part only."""
        student = self._parallel_student
        if last or not isinstance(student, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return student.no_sync()
