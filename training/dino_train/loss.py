"""The DINO loss, as the paper writes it and as training runs it, and the centre.

``dino_loss`` is equation 3 on logits, the reference. ``DINOLoss`` is what a step calls: the same
number from bottlenecks, without holding the logits of all crops, see ``sliced_loss``.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dino_train.head import WeightNormLinear
from dino_train.sliced_loss import LossPlan, SlicedLoss


def dino_loss(
    student_logits: Float[Tensor, "student_crops batch out_dim"],
    teacher_probs: Float[Tensor, "teacher_crops batch out_dim"],
    *,
    student_temp: float = 0.1,
) -> Float[Tensor, ""]:
    """Average cross-entropy over every (teacher crop, student crop) pair of different crops.

    Crop ``i`` of the teacher must be crop ``i`` of the student: global crops come first. Since the
    targets sum to 1, each pair is one log-sum-exp less one dot product, and the dot products of a
    student crop share one sum of targets: no log-softmax of any pair is ever formed.

    Args:
        student_logits: Student head outputs, before the softmax.
        teacher_probs: Teacher targets, summing to 1 over ``out_dim``; carry no gradient.
        student_temp: Softmax temperature; lower is sharper.

    Returns:
        The loss in nats, averaged over pairs and images.

    Source: https://arxiv.org/abs/2104.14294, equation 3 and algorithm 1.
    """
    batch, teacher_crops = student_logits.shape[1], len(teacher_probs)
    pairs = pairs_of(len(student_logits), teacher_crops)
    all_targets = teacher_probs.sum(dim=0)
    loss = student_logits.new_zeros((), dtype=torch.float32)
    for crop, logits in enumerate(student_logits):
        scaled = logits.float() / student_temp
        targets, partners = all_targets, teacher_crops
        if crop < teacher_crops:
            targets, partners = all_targets - teacher_probs[crop], teacher_crops - 1
        if partners:
            loss = loss + partners * scaled.logsumexp(dim=-1).sum() - (targets * scaled).sum()
    return loss / (pairs * batch)


class Center(nn.Module):
    """Running mean of the teacher logits, subtracted from them to prevent collapse.

    Source: https://arxiv.org/abs/2104.14294, equation 4.
    """

    center: Tensor

    def __init__(self, out_dim: int, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(out_dim))

    def targets(
        self,
        teacher_logits: Float[Tensor, "teacher_crops batch out_dim"],
        *,
        teacher_temp: float,
    ) -> Float[Tensor, "teacher_crops batch out_dim"]:
        """Centre, then sharpen: the probabilities that the student is trained to predict."""
        return F.softmax((teacher_logits.float() - self.center) / teacher_temp, dim=-1)

    @torch.no_grad()
    def update(
        self, mean_logits: Float[Tensor, " out_dim"], *, applies: Bool[Tensor, ""] | None = None
    ) -> None:
        """Move toward the mean of this step's teacher logits in all processes.

        Where ``applies``, a flag on the device, is false, nothing changes.
        """
        moved = self.center.lerp(mean_logits.float(), 1 - self.momentum)
        self.center.copy_(moved if applies is None else torch.where(applies, moved, self.center))


class LossTerms(NamedTuple):
    """Loss of a batch and what a step needs beside it, still on the device."""

    loss: Float[Tensor, ""]
    """Value of ``dino_loss``, in nats, with gradients."""
    teacher_entropy: Float[Tensor, ""]
    """Mean entropy of the targets, in nats."""
    mean_logits: Float[Tensor, " out_dim"]
    """Logits of the teacher, averaged over crops and images in float32, for the centre."""


class DINOLoss:
    """``dino_loss`` of two networks' last layers, whose targets are ``Center.targets``.

    Args:
        student_layer: Layer from bottlenecks to logits; gets gradients.
        teacher_layer: Same layer of the teacher; gets none.
        student_temp: Softmax temperature of the student.
        dtype: Arithmetic of the matrix products; sums and exponentials are float32.
        memory_mib: Bound on the exponentials held at once; None: by device.
    """

    def __init__(
        self,
        student_layer: WeightNormLinear,
        teacher_layer: WeightNormLinear,
        *,
        student_temp: float = 0.1,
        dtype: torch.dtype = torch.float32,
        memory_mib: int | None = None,
    ) -> None:
        self._layers = student_layer, teacher_layer
        self._student_temp = student_temp
        self._dtype = dtype
        self._memory_mib = memory_mib

    def __call__(
        self,
        student: Float[Tensor, "student_crops batch bottleneck"],
        teacher: Float[Tensor, "teacher_crops batch bottleneck"],
        center: Center,
        *,
        teacher_temp: float,
    ) -> LossTerms:
        """Loss of L2-normalised bottlenecks, global crops first.

        Raises:
            ValueError: There is no pair of different crops.
        """
        plan = LossPlan(
            student_temp=self._student_temp,
            teacher_temp=teacher_temp,
            pairs=pairs_of(len(student), len(teacher)),
            dtype=self._dtype,
            memory_mib=self._memory_mib,
        )
        own, others = self._layers
        found = SlicedLoss.apply(
            student,
            own.weight_v,
            own.weight_g,
            teacher.detach(),
            others.weight_v.detach(),
            others.weight_g.detach(),
            center.center,
            plan,
        )
        return LossTerms(*found)


def pairs_of(student_crops: int, teacher_crops: int) -> int:
    """Number of pairs of different crops."""
    pairs = student_crops * teacher_crops - min(student_crops, teacher_crops)
    if pairs == 0:
        raise ValueError(
            "the loss needs a pair of different crops, got "
            f"{student_crops} student and {teacher_crops} teacher crops"
        )
    return pairs
