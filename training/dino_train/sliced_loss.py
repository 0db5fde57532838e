"""The DINO loss from bottlenecks to a number, without ever holding the logits of all crops.

The last layer and the loss are one function with a gradient of its own. Images are taken a slice
at a time and prototypes a block at a time. With ``e = exp(logit - peak of the block)``:

- a probability is ``e`` times a number of its row and block, so no pass over the logits divides;
- the targets meet the logits in ``sum_k t_k x.w_k = x . (sum_k t_k w_k)``, a vector of the
  bottleneck's length that the gradient needs anyway, so no pass over the logits multiplies;
- the mean of the teacher's logits, for the centre, is the last layer of the mean bottleneck.

What is left are three matrix products and one exponential for each logit. ``loss.dino_loss`` is the
same thing said plainly; tests compare the two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dino_train.head import WeightNormLinear

MEMORY_MIB = {"cpu": 64, "cuda": 256}
"""Exponentials held at once: those of one slice of images."""
BLOCK = {"cpu": 2048, "cuda": 16384}
"""Prototypes worked on at once: what caches hold on a CPU, few kernels on a GPU."""


class SlicedLoss(NamedTuple):
    """What the loss says about a batch, still on the device."""

    loss: Float[Tensor, ""]
    """As ``loss.dino_loss``, with gradients."""
    teacher_entropy: Float[Tensor, ""]
    """Mean entropy of the targets, in nats."""


def sliced_dino_loss(
    student: Float[Tensor, "student_crops batch bottleneck"],
    teacher: Float[Tensor, "teacher_crops batch bottleneck"],
    *,
    student_layer: WeightNormLinear,
    teacher_layer: WeightNormLinear,
    center: Float[Tensor, " out_dim"],
    student_temp: float,
    teacher_temp: float,
    dtype: torch.dtype = torch.float32,
    memory_mib: int | None = None,
) -> SlicedLoss:
    """``dino_loss`` of two last layers' outputs, where targets are ``Center.targets``.

    Args:
        student: L2-normalised bottlenecks of all crops, global crops first.
        teacher: Those of the teacher's crops; they get no gradient.
        student_layer: Turns bottlenecks into logits; gets gradients.
        teacher_layer: The same of the teacher; gets none.
        center: Subtracted from the teacher's logits.
        student_temp: Softmax temperature of the student.
        teacher_temp: Softmax temperature of the teacher.
        dtype: Arithmetic of the matrix products; sums and exponentials are float32.
        memory_mib: Bound on the exponentials held at once; None: by device.

    Raises:
        ValueError: There is no pair of different crops.
    """
    pairs = len(student) * len(teacher) - min(len(student), len(teacher))
    if pairs == 0:
        raise ValueError(
            "the loss needs a pair of different crops, got "
            f"{len(student)} student and {len(teacher)} teacher crops"
        )
    device = student.device.type
    plan = _Plan(
        student_temp=student_temp,
        teacher_temp=teacher_temp,
        pairs=pairs,
        dtype=dtype,
        block=BLOCK.get(device, BLOCK["cuda"]),
        memory_mib=memory_mib or MEMORY_MIB.get(device, MEMORY_MIB["cuda"]),
    )
    loss, entropy = _SlicedLoss.apply(
        student,
        student_layer.weight_v,
        student_layer.weight_g,
        teacher.detach(),
        teacher_layer.weight_v.detach(),
        teacher_layer.weight_g.detach(),
        center,
        plan,
    )
    return SlicedLoss(loss, entropy)


def mean_logits(
    bottlenecks: Float[Tensor, "crops batch bottleneck"], layer: WeightNormLinear
) -> Float[Tensor, " out_dim"]:
    """Mean of the layer's outputs over crops and images; no logits are formed."""
    mean = bottlenecks.float().mean(dim=(0, 1))
    norms = torch.linalg.vector_norm(layer.weight_v, dim=1)
    scales: Tensor = layer.weight_g[:, 0] / norms
    return layer.weight_v @ mean * scales


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The constants of one loss."""

    student_temp: float
    teacher_temp: float
    pairs: int
    dtype: torch.dtype
    block: int
    memory_mib: int

    def slices(self, crops: int, batch: int, out_dim: int) -> Iterator[slice]:
        """Images whose exponentials fit into memory together."""
        per_image = crops * out_dim * self.dtype.itemsize
        images = max(1, (self.memory_mib << 20) // per_image)
        images = -(-batch // -(-batch // images))  # equal slices
        return (slice(start, min(start + images, batch)) for start in range(0, batch, images))

    def blocks(self, out_dim: int) -> list[slice]:
        """Prototypes that are worked on together."""
        return [slice(start, start + self.block) for start in range(0, out_dim, self.block)]


class _SlicedLoss(torch.autograd.Function):
    """Computes the gradients with the loss: both need the same exponentials."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        weight_v: Tensor,
        weight_g: Tensor,
        teacher: Tensor,
        teacher_v: Tensor,
        teacher_g: Tensor,
        center: Tensor,
        plan: _Plan,
    ) -> tuple[Tensor, Tensor]:
        crops, batch = student.shape[:2]
        teachers = len(teacher)
        layer, teacher_layer = _Layer(weight_v, weight_g, plan), _Layer(teacher_v, teacher_g, plan)
        partners = torch.full((crops, 1, 1), float(teachers), device=student.device)
        partners[:teachers] -= 1
        loss, entropy = (torch.zeros((), device=student.device) for _ in range(2))
        learns = any(ctx.needs_input_grad)
        d_student = torch.empty_like(student, dtype=torch.float32)
        d_weight = torch.empty_like(weight_v) if learns else None
        per_logit = 1 / (plan.pairs * batch * plan.student_temp)
        for part in plan.slices(crops + teachers, batch, len(weight_v)):
            x, y = student[:, part].float(), teacher[:, part].float()
            targets = teacher_layer.softmax(y, temp=plan.teacher_temp, center=center)
            probs = layer.softmax(x, temp=plan.student_temp)
            wanted, shown = layer.expected_rows([targets, probs])
            pull = _of_others(wanted, crops)
            loss += (partners[..., 0] * probs.normalizer()).sum()
            loss -= (x * pull).sum() / plan.student_temp
            entropy += targets.entropy().sum()
            if d_weight is not None:
                d_student[:, part] = (partners * shown - pull) * per_logit
                rows = [partners * x * per_logit, _of_others(x, teachers) * -per_logit]
                layer.collect_gradient(d_weight, [probs, targets], rows, first=part.start == 0)
        ctx.layer, ctx.gradients = layer, (d_student, d_weight)
        entropy = entropy / (teachers * batch)
        ctx.mark_non_differentiable(entropy)
        return loss / (plan.pairs * batch), entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (d_student, d_v), ctx.gradients = ctx.gradients, None  # as large as the layer
        d_g = ctx.layer.through_weight_norm(d_v, scale=d_loss)
        found = (d_student * d_loss, d_v, d_g)
        wanted = zip(found, ctx.needs_input_grad, strict=False)
        return (*(d if needed else None for d, needed in wanted), None, None, None, None, None)


@dataclass(frozen=True, kw_only=True)
class _Softmax:
    """Softmax over all prototypes, in blocks: exponentials, and what makes them probabilities."""

    exponentials: list[Tensor]
    """For each block: (crops, batch, block)."""
    peaks: Tensor
    """Largest logit of each block: (blocks, crops, batch)."""
    totals: Tensor
    """Sum of the exponentials of each block."""
    moments: Tensor | None
    """Sum of the exponentials times the logits less their peak, of each block."""

    def normalizer(self) -> Tensor:
        """Log-sum-exp over all prototypes: (crops, batch)."""
        return (self.peaks + self.totals.log()).logsumexp(dim=0)

    def factors(self) -> Tensor:
        """What turns exponentials of each block into probabilities: (blocks, crops, batch, 1)."""
        return (self.peaks - self.normalizer()).exp().unsqueeze(-1)

    def entropy(self) -> Tensor:
        """Entropy of each row in nats."""
        assert self.moments is not None  # only those of the targets are summed up
        logits = self.moments + self.peaks * self.totals
        return self.normalizer() - (self.factors()[..., 0] * logits).sum(dim=0)


class _Layer:
    """A weight-normalised layer, a block of prototypes at a time."""

    def __init__(self, weight_v: Tensor, weight_g: Tensor, plan: _Plan) -> None:
        self._v = weight_v
        self._norms = torch.linalg.vector_norm(weight_v, dim=1, keepdim=True)
        self._scales: Tensor = weight_g / self._norms
        self._dtype = plan.dtype
        self._blocks = plan.blocks(len(weight_v))

    def rows(self, block: slice) -> Tensor:
        """Rows of the effective weight."""
        rows: Tensor = self._v[block] * self._scales[block]
        return rows.to(self._dtype)

    def softmax(self, x: Tensor, *, temp: float, center: Tensor | None = None) -> _Softmax:
        """Softmax of ``(x . w_k - center_k) / temp``; centred ones are summed up for entropy."""
        x = (x / temp).to(self._dtype)
        exponentials, peaks, totals, moments = [], [], [], []
        for block in self._blocks:
            logits = (x @ self.rows(block).T).float()
            if center is not None:
                logits -= center[block] / temp
            peak = logits.amax(dim=-1, keepdim=True)
            exponential = logits.sub_(peak).exp()
            exponentials.append(exponential.to(self._dtype))
            peaks.append(peak[..., 0])
            totals.append(exponential.sum(dim=-1))
            if center is not None:
                moments.append(torch.linalg.vecdot(exponential, logits))
        return _Softmax(
            exponentials=exponentials,
            peaks=torch.stack(peaks),
            totals=torch.stack(totals),
            moments=torch.stack(moments) if moments else None,
        )

    def expected_rows(self, softmaxes: list[_Softmax]) -> list[Tensor]:
        """Mean row of the layer under the probabilities of each: (crops, batch, bottleneck)."""
        factors = [softmax.factors() for softmax in softmaxes]
        products: list[list[Tensor]] = [[] for _ in softmaxes]
        for number, block in enumerate(self._blocks):
            rows = self.rows(block)
            for softmax, factor, parts in zip(softmaxes, factors, products, strict=True):
                parts.append(factor[number] * (softmax.exponentials[number] @ rows))
        return [torch.stack(parts).sum(dim=0) for parts in products]

    def collect_gradient(
        self, d_weight: Tensor, softmaxes: list[_Softmax], rows: list[Tensor], *, first: bool
    ) -> None:
        """Probabilities, transposed, times rows: write the first slice's, add the others'."""
        factors = [softmax.factors() for softmax in softmaxes]
        for number, block in enumerate(self._blocks):
            left = torch.cat([softmax.exponentials[number].flatten(0, 1) for softmax in softmaxes])
            both = zip(factors, rows, strict=True)
            right = torch.cat([(factor[number] * x).flatten(0, 1) for factor, x in both])
            product = left.T @ right.to(self._dtype)
            d_weight[block] = product if first else d_weight[block] + product

    def through_weight_norm(self, d_weight: Tensor, *, scale: Tensor) -> Tensor:
        """Turn the weight's gradient into that of ``weight_v``, in place; that of ``weight_g``."""
        d_g = torch.empty_like(self._norms)
        for block in self._blocks:
            gradient, v, norms = d_weight[block], self._v[block], self._norms[block]
            d_g[block] = torch.linalg.vecdot(gradient, v).unsqueeze(-1) / norms
            gradient.addcmul_(v, d_g[block] / norms, value=-1).mul_(self._scales[block] * scale)
        return d_g.mul_(scale)


def _of_others(values: Tensor, crops: int) -> Tensor:
    """For each of ``crops`` crops, the sum of ``values`` over all crops of other numbers."""
    total = values.sum(dim=0).expand(crops, *values.shape[1:])
    own = min(crops, len(values))
    return torch.cat([total[:own] - values[:own], total[own:]])
