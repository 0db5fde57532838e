"""What one optimizer step does: algorithm 1 of the paper, with clipping, scaler and freezing.

Nothing here waits for the device: numbers stay on it until somebody reads them, and a step that is
not finite is called off by a flag that the host never sees.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dino_infer.devices import AUTOCAST
from dino_train import optim
from dino_train.distributed import PendingMean, Process, data_parallel
from dino_train.health import SkippedSteps, step_health
from dino_train.loss import Center
from dino_train.sliced_loss import SlicedLoss, sliced_dino_loss
from dino_train.student_teacher import MultiCropNetwork, update_teacher, use_plain_attention

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

    applied: Bool[Tensor, ""]
    """False where a number was not finite: nothing was changed then."""
    grad_norm: Float[Tensor, ""]
    """L2 norm of the whole gradient before clipping."""
    health: dict[str, Tensor]
    """See ``dino_train.health.step_health``."""


class Learner:
    """Student, teacher, centre and optimizer, which learn one batch at a time.

    Args:
        student: Learns by gradient.
        teacher: Its frozen copy, which follows as a moving average.
        center: Of the teacher's logits.
        optimizer: Over the student's parameters, from ``optim.build_optimizer``.
        process: This process; with several, gradients and centre are averaged.
        precision: Arithmetic of the forward passes.
        student_temp: Softmax temperature of the student.
        clip_grad: Bound on the norm of each gradient tensor; 0 clips nothing.
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
        self.skipped = SkippedSteps(process.device)
        # The modules themselves stay as they are: others read their weights and embed with them.
        runs: list[Any] = [torch.compile(net) if compiled else net for net in (student, teacher)]
        self._parallel_student, self._run_teacher = data_parallel(runs[0], process), runs[1]
        self._statistics = [*student.buffers(), *teacher.buffers()]
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
        statistics = [buffer.clone() for buffer in self._statistics]
        # Mean loss, mean entropy, then the mean logits of the teacher.
        means = torch.zeros(2 + len(self.center.center), device=self._device)
        for number, crops in enumerate(parts):
            last = number == len(parts) - 1
            with self._autocast(), torch.no_grad():
                teacher_out, teacher_features = self._run_teacher(crops[0])
            with self._gradient_sync(last=last):
                with self._autocast():
                    student_out, _ = self._parallel_student(*crops)
                terms = self._loss(student_out, teacher_out, teacher_temp=rates.teacher_temp)
                numbers = torch.stack([terms.loss.detach(), terms.teacher_entropy])
                means += torch.cat([numbers, terms.mean_logits]) / len(parts)
                if last:  # travels while gradients are computed
                    pending = PendingMean(means)
                self._scaler.scale(terms.loss / len(parts)).backward()  # type: ignore[no-untyped-call]

        self._scaler.unscale_(self.optimizer)
        norms = optim.clip_each_gradient(self.student.parameters(), self._clip_grad)
        shared = pending.value()
        applied = norms.isfinite().all() & shared.isfinite().all()  # the same in all processes
        if freeze_last_layer:
            optim.drop_gradients(self.student.head.last_layer)
        if freeze_backbone:
            optim.drop_gradients(self.student.backbone)
        optim.set_rates(self.optimizer, lr=rates.lr, weight_decay=rates.weight_decay)
        optim.step_if(self.optimizer, applied)
        update_teacher(self.teacher, self.student, momentum=rates.momentum, applies=applied)
        self.center.update(shared[2:], applies=applied)
        self._restore_statistics(statistics, applied)
        self.skipped.count(applied)
        if self._scaler.is_enabled():
            self._scaler.update()
        health = step_health(
            loss=means[0],
            teacher_entropy=means[1],
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

    def _loss(self, student_out: Tensor, teacher_out: Tensor, *, teacher_temp: float) -> SlicedLoss:
        return sliced_dino_loss(
            student_out,
            teacher_out,
            student_layer=self.student.head.last_layer,
            teacher_layer=self.teacher.head.last_layer,
            center=self.center.center,
            student_temp=self._student_temp,
            teacher_temp=teacher_temp,
            # float16 would lose the small probabilities.
            dtype=torch.bfloat16 if self._dtype == torch.bfloat16 else torch.float32,
        )

    @torch.no_grad()
    def _restore_statistics(self, before: list[Tensor], applied: Tensor) -> None:
        """Undo what a step that was called off did to the statistics of batch norm."""
        for buffer, old in zip(self._statistics, before, strict=True):
            buffer.copy_(torch.where(applied, buffer, old))

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
