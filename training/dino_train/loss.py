"""The DINO loss, pure, and the centre, which only changes when told to.

Training computes the same loss without holding the logits, see ``sliced_loss``.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


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
    student_crops, batch = student_logits.shape[:2]
    teacher_crops = len(teacher_probs)
    pairs = student_crops * teacher_crops - min(student_crops, teacher_crops)
    if pairs == 0:
        raise ValueError(
            "the loss needs a pair of different crops, got "
            f"{student_crops} student and {teacher_crops} teacher crops"
        )
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
