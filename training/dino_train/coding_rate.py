"""The coding-rate loss: the crops of an image agree, and the outputs of all images fill the space.

It takes the place of DINO's cross-entropy and needs no prototypes, centre or temperatures: the
outputs are the head's unit vectors Z (m images x p), and collapse is prevented by their rate

    R(Z) = 1/2 logdet(I + p / (m epsilon) Z'Z).

With the teacher's outputs as targets this is SimDINO. With the student's own as targets, and
gradients through both sides, no network teaches another: that is no self-distillation, but the
total coding rate of EMP-SSL (arXiv 2304.03977) with a weight on the agreement.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dino_train.distributed import mean_to_learn_from, processes
from dino_train.loss import pairs_of


class RateTerms(NamedTuple):
    """Loss of a batch and what it is made of, still on the device."""

    loss: Float[Tensor, ""]
    """Number that training lowers, with gradients; it has no unit and no lower bound of 0."""
    alignment: Float[Tensor, ""]
    """Mean cosine of the pairs of different crops of an image: 1 if all agree."""
    coding_rate: Float[Tensor, ""]
    """R(Z) in nats, averaged over the global crops."""
    rate_share: Float[Tensor, ""]
    """The rate between that of equal outputs (0) and the largest that there is (1)."""


def coding_rate(
    covariance: Float[Tensor, "crops bottleneck bottleneck"], *, epsilon: float
) -> Float[Tensor, " crops"]:
    """R(Z) in nats of outputs with these second moments, Z'Z / m.

    The matrix has eigenvalues from 1 to 1 + p / epsilon, which float32 factors well.
    """
    width = covariance.shape[-1]
    identity = torch.eye(width, device=covariance.device)
    factor: Tensor = torch.linalg.cholesky_ex(identity + width / epsilon * covariance).L
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


class CodingRateLoss:
    """``-alignment_weight * alignment - gamma * R(Z)``, with gamma = (p + m) / (p m).

    Z are the student's outputs of one global crop of all images, in all processes; the rates of
    the global crops are averaged.

    Args:
        alignment_weight: Weight of the cosines; 1 is SimDINO's.
        epsilon: Precision of the code: smaller asks outputs to spread further.

    Source: https://arxiv.org/abs/2502.10385, section 3.
    """

    def __init__(self, *, alignment_weight: float = 1.0, epsilon: float = 0.05) -> None:
        self._alignment_weight = alignment_weight
        self._epsilon = epsilon

    def __call__(
        self,
        student: Float[Tensor, "student_crops batch bottleneck"],
        targets: Float[Tensor, "target_crops batch bottleneck"],
    ) -> RateTerms:
        """Loss of L2-normalised bottlenecks, global crops first.

        Args:
            student: Outputs of all crops.
            targets: Outputs of the global crops: the teacher's without gradient, or the student's.

        Raises:
            ValueError: There is no pair of different crops.
        """
        student, targets = student.float(), targets.float()
        batch, width = student.shape[1:]
        alignment = _alignment(student, targets)
        seen = student[: len(targets)]
        covariance = mean_to_learn_from(seen.mT @ seen / batch)
        rate = coding_rate(covariance, epsilon=self._epsilon).mean()
        images = batch * processes()
        gamma = (width + images) / (width * images)
        loss = -self._alignment_weight * alignment - gamma * rate
        return RateTerms(loss, alignment, rate, self._share(rate, images, width))

    def _share(self, rate: Tensor, images: int, width: int) -> Tensor:
        lowest, highest = (
            directions / 2 * math.log1p(width / (self._epsilon * directions))
            for directions in (1, min(images, width))
        )
        return (rate - lowest) / (highest - lowest) if images > 1 else torch.ones_like(rate)


def _alignment(student: Tensor, targets: Tensor) -> Tensor:
    """Mean cosine over the pairs of different crops and the images."""
    own = min(len(student), len(targets))
    every = (student.sum(dim=0) * targets.sum(dim=0)).sum()
    same = (student[:own] * targets[:own]).sum()
    return (every - same) / (pairs_of(len(student), len(targets)) * student.shape[1])
