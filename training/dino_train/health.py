"""Numbers that tell whether a run is learning, and warnings that name a collapse."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dino_infer.evaluate.measures.health import feature_std


@torch.no_grad()
def step_health(
    *,
    loss: Float[Tensor, ""],
    teacher_entropy: Float[Tensor, ""],
    features: Float[Tensor, "batch embed_dim"],
    center: Float[Tensor, " out_dim"],
) -> dict[str, Float[Tensor, ""]]:
    """Health of one step, on the device.

    Returns:
        ``loss_nats``; ``loss_over_ln_k`` (1 where the student knows nothing);
        ``teacher_entropy_nats`` (0 one-hot, ln K uniform); ``kl_nats`` (loss less entropy, what
        the student has yet to learn); ``center_norm``; ``feature_std`` of the teacher's features.
    """
    return {
        "loss_nats": loss,
        "loss_over_ln_k": loss / math.log(len(center)),
        "teacher_entropy_nats": teacher_entropy,
        "kl_nats": loss - teacher_entropy,
        "center_norm": center.norm(),
        "feature_std": feature_std(features),
    }


@torch.no_grad()
def rate_health(
    *,
    loss: Float[Tensor, ""],
    alignment: Float[Tensor, ""],
    coding_rate: Float[Tensor, ""],
    rate_share: Float[Tensor, ""],
    features: Float[Tensor, "batch embed_dim"],
) -> dict[str, Float[Tensor, ""]]:
    """Health of one step of the coding-rate loss, on the device.

    Returns:
        ``rate_loss`` (falls below 0, has no unit); ``alignment`` (mean cosine between crops of an
        image: 1 if all agree); ``coding_rate_nats``; ``coding_rate_share`` (0 when all images get
        the same output, 1 when outputs fill the space evenly); ``feature_std`` as in
        ``step_health``, of the networks that give the targets.
    """
    return {
        "rate_loss": loss,
        "alignment": alignment,
        "coding_rate_nats": coding_rate,
        "coding_rate_share": rate_share,
        "feature_std": feature_std(features),
    }


class SkippedSteps:
    """Counts skipped steps on the device, without synchronisation."""

    def __init__(self, device: torch.device) -> None:
        self._in_a_row, self._longest, self._total = torch.zeros(3, device=device).unbind()

    @torch.no_grad()
    def count(self, applied: Bool[Tensor, ""]) -> None:
        """Count one more step, which was applied or skipped."""
        self._in_a_row.add_(1).mul_(~applied)
        torch.maximum(self._longest, self._in_a_row, out=self._longest)
        self._total += ~applied

    def numbers(self) -> dict[str, Float[Tensor, ""]]:
        """``skipped_steps``, and ``skipped_in_a_row`` at worst, since this object was made."""
        return {"skipped_steps": self._total, "skipped_in_a_row": self._longest}


@dataclass(frozen=True)
class _Sign:
    """A kind of collapse: when it shows and what to do."""

    name: str
    advice: str


UNIFORM = _Sign(
    "uniform collapse: the teacher gives every prototype the same probability (loss = ln K)",
    "lower `teacher.warmup_teacher_temp` (0.02), lower `head.out_dim`, or lower `teacher.momentum`",
)
ONE_HOT = _Sign(
    "one-hot collapse: the teacher gives every image the same prototype (loss -> 0)",
    "raise `teacher.teacher_temp` slightly, lower `teacher.center_momentum`, or lower `optim.lr`",
)
CONSTANT = _Sign(
    "feature collapse: the backbone gives every image the same vector",
    "lower `optim.lr`, lengthen `optim.warmup_epochs`, or set `optim.clip_grad=0.3`",
)
FEW_DIRECTIONS = _Sign(
    "collapse of the outputs: the head gives all images nearly the same direction "
    "(coding_rate_share -> 0)",
    "lower `loss.alignment_weight`, lower `optim.lr`, or lengthen `optim.warmup_epochs`",
)
UNALIGNED = _Sign(
    "no agreement: the crops of one image are as far apart as those of others (alignment -> 0)",
    "raise `loss.alignment_weight` or `loss.epsilon`, train on larger batches, or on crops that "
    "show more (`crops.global_crops_scale`)",
)
COPIES = _Sign(
    "partial prototype collapse: most prototypes are copies of others",
    "lower `head.out_dim`; copies take time and memory, and tell images apart no further",
)
SIGNS = (UNIFORM, ONE_HOT, CONSTANT, COPIES, FEW_DIRECTIONS, UNALIGNED)
"""All kinds of collapse."""
MANY_COPIES = 0.1  # share of unique prototypes below which copies are named


class CopiesMonitor:
    """Watches measurements and names a partial collapse of the prototypes, once."""

    def __init__(self) -> None:
        self._named = False

    def warning(self, numbers: Mapping[str, float]) -> str | None:
        """The warning that this measurement gives rise to."""
        share = numbers.get("unique_prototypes_share", 1.0)
        if self._named or share >= MANY_COPIES:
            return None
        self._named = True
        return f"{COPIES.name} (unique: {share:.1%}); what helps: {COPIES.advice}"


class CollapseMonitor:
    """Watches logged rows and names a collapse that lasts.

    Args:
        window: Logged rows in a row that must show the sign.
        patience_steps: First step that counts: at the start of every run the loss is ln K.
    """

    def __init__(self, *, window: int = 10, patience_steps: int = 200) -> None:
        self._patience_steps = patience_steps
        self._recent: deque[_Sign | None] = deque(maxlen=window)
        self._named: _Sign | None = None

    def warning(self, row: dict[str, float]) -> str | None:
        """The warning that this row gives rise to; each kind is given once until it passes."""
        if row["step"] < self._patience_steps:
            return None
        sign = self._sign(row)
        self._recent.append(sign)
        if sign is None:
            self._named = None
            return None
        lasting = len(self._recent) == self._recent.maxlen and set(self._recent) == {sign}
        if not lasting or sign is self._named:
            return None
        self._named = sign
        return f"{sign.name}; what helps: {sign.advice}"

    @staticmethod
    def _sign(row: dict[str, float]) -> _Sign | None:
        if "rate_loss" in row:
            return _sign_of_rate(row)
        ln_k = row["loss_nats"] / max(row["loss_over_ln_k"], 1e-12)
        if row["loss_over_ln_k"] > 0.99 and row["teacher_entropy_nats"] > 0.99 * ln_k:
            return UNIFORM
        if row["loss_over_ln_k"] < 0.01 and row["teacher_entropy_nats"] < 0.01 * ln_k:
            return ONE_HOT
        if row["feature_std"] < 0.01:
            return CONSTANT
        return None


def _sign_of_rate(row: dict[str, float]) -> _Sign | None:
    if row["feature_std"] < 0.01:
        return CONSTANT
    if row["coding_rate_share"] < 0.05:
        return FEW_DIRECTIONS
    return UNALIGNED if row["alignment"] < 0.05 else None
