"""The DINO loss from bottlenecks to a number, without ever holding the logits of all crops.

The last layer and the loss are one function with a gradient of its own. Images are taken a slice
at a time and prototypes a block at a time. With ``e = exp(logit - peak of the block)``:

- a probability is ``e`` times a number of its row and block, so no pass over the logits divides;
- the targets meet the logits in ``sum_k t_k x.w_k = x . (sum_k t_k w_k)``, a vector of the
  bottleneck's length that the gradient needs anyway, so no pass over the logits multiplies;
- the mean of the teacher's logits, for the centre, is the last layer of the mean bottleneck;
- the peak is 0 where no logit can be large, as with normalised rows, and nothing looks for it.

What is left are three matrix products and one exponential for each logit. ``loss.dino_loss`` is the
same thing said plainly; tests compare the two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MEMORY_MIB = {"cpu": 128, "cuda": 256}
"""Exponentials held at once: those of one slice of images."""
BLOCK = {"cpu": 2048, "cuda": 16384}
"""Prototypes worked on at once: what caches hold on a CPU, few kernels on a GPU."""

_READ_AT_ONCE = ("cpu",)  # devices whose numbers the host sees without waiting
_LARGEST_LOGIT = 40.0  # its exponential, and one over it, leave room for sums in float32 and bf16


@dataclass(frozen=True, kw_only=True)
class LossPlan:
    """Constants of one loss."""

    student_temp: float
    teacher_temp: float
    pairs: int
    dtype: torch.dtype
    memory_mib: int | None = None
    """Bound on the exponentials held at once; None: by device."""

    def slices(self, crops: int, batch: int, out_dim: int, device: str) -> Iterator[slice]:
        """Images whose exponentials fit into memory together."""
        memory_mib = self.memory_mib or MEMORY_MIB.get(device, MEMORY_MIB["cuda"])
        per_image = crops * out_dim * self.dtype.itemsize
        images = max(1, (memory_mib << 20) // per_image)
        images = -(-batch // -(-batch // images))  # equal slices
        return (slice(start, min(start + images, batch)) for start in range(0, batch, images))


class SlicedLoss(torch.autograd.Function):
    """``loss.DINOLoss`` with its gradients, which need the same exponentials."""

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
        plan: LossPlan,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, mean entropy of the targets, and mean logits of the teacher."""
        crops, batch = student.shape[:2]
        teachers = len(teacher)
        layer = _Layer(weight_v, weight_g, plan.dtype)
        teacher_layer = _Layer(teacher_v, teacher_g, plan.dtype)
        partners = torch.full((crops, 1, 1), float(teachers), device=student.device)
        partners[:teachers] -= 1
        loss, entropy = (torch.zeros((), device=student.device) for _ in range(2))
        mean_logits = torch.zeros_like(center)
        learns = any(ctx.needs_input_grad)
        d_student = torch.empty_like(student, dtype=torch.float32)
        d_weight = torch.empty_like(weight_v) if learns else None
        per_logit = 1 / (plan.pairs * batch * plan.student_temp)
        for part in plan.slices(crops + teachers, batch, len(weight_v), student.device.type):
            x, y = student[:, part].float(), teacher[:, part].float()
            rows = [x.shape[0] * x.shape[1], y.shape[0] * y.shape[1]]
            room = layer.room(sum(rows))
            probs = layer.softmax(x, temp=plan.student_temp, out=[one[: rows[0]] for one in room])
            targets = teacher_layer.softmax(
                y, temp=plan.teacher_temp, out=[one[rows[0] :] for one in room], center=center
            )
            factors = torch.cat([probs.factors(), targets.factors()], dim=1)
            expected = torch.split(layer.expected_rows(room, factors), rows)
            shown, wanted = (one.view_as(like) for one, like in zip(expected, (x, y), strict=True))
            pull = _of_others(wanted, crops)
            loss += (partners[..., 0] * probs.normalizer().view(x.shape[:2])).sum()
            loss -= (x * pull).sum() / plan.student_temp
            entropy += targets.entropy().sum()
            mean_logits += targets.mean_logits() * (y.shape[1] / batch)
            if d_weight is not None:
                d_student[:, part] = (partners * shown - pull) * per_logit
                sides = (partners * x).flatten(0, 1), _of_others(x, teachers).flatten(0, 1)
                right = torch.cat([sides[0], -sides[1]]).mul_(per_logit)
                layer.collect_gradient(d_weight, room, factors, right, first=part.start == 0)
        ctx.layer, ctx.gradients = layer, (d_student, d_weight)
        entropy = entropy / (teachers * batch)
        ctx.mark_non_differentiable(entropy, mean_logits)
        return loss / (plan.pairs * batch), entropy, mean_logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the student's bottlenecks and last layer, which ``forward`` computed."""
        (d_student, d_v), ctx.gradients = ctx.gradients, None  # as large as the layer
        d_g = ctx.layer.through_weight_norm(d_v, scale=d_loss)
        found = (d_student * d_loss, d_v, d_g)
        wanted = zip(found, ctx.needs_input_grad, strict=False)
        return (*(d if needed else None for d, needed in wanted), None, None, None, None, None)


@dataclass(frozen=True, kw_only=True)
class _Softmax:
    """Terms that turn exponentials of each block into probabilities; rows are crops x images."""

    peaks: Tensor
    """Offsets subtracted from the logits of each block: (blocks, rows)."""
    totals: Tensor
    """Sum of the exponentials of each block."""
    moments: list[Tensor]
    """Sum of the exponentials times the logits less their peak, of each block, where centred."""
    means: list[Tensor]
    """Mean of each block's logits over all rows, without temperature and centre, where centred."""

    def normalizer(self) -> Tensor:
        """Log-sum-exp over all prototypes: (rows,)."""
        return (self.peaks + self.totals.log()).logsumexp(dim=0)

    def factors(self) -> Tensor:
        """Return the factors that turn exponentials into probabilities: (blocks, rows, 1)."""
        return (self.peaks - self.normalizer()).exp().unsqueeze(-1)

    def entropy(self) -> Tensor:
        """Entropy of each row in nats."""
        logits = torch.stack(self.moments) + self.peaks * self.totals
        return self.normalizer() - (self.factors()[..., 0] * logits).sum(dim=0)

    def mean_logits(self) -> Tensor:
        """Mean over the rows: (out_dim,)."""
        return torch.cat(self.means)


class _Layer:
    """A weight-normalised layer, a block of prototypes at a time."""

    def __init__(self, weight_v: Tensor, weight_g: Tensor, dtype: torch.dtype) -> None:
        self._v = weight_v
        self._g = weight_g
        self._norms = torch.linalg.vector_norm(weight_v, dim=1, keepdim=True)
        self._scales: Tensor = weight_g / self._norms
        self._dtype = dtype
        block = BLOCK.get(weight_v.device.type, BLOCK["cuda"])
        self._blocks = [slice(at, at + block) for at in range(0, len(weight_v), block)]

    def rows(self, block: slice) -> Tensor:
        """Rows of the effective weight, in float32."""
        return self._v[block] * self._scales[block]

    def room(self, rows: int) -> list[Tensor]:
        """Allocate buffers for exponentials: (rows, block) for each block."""
        widths = [len(self._norms[block]) for block in self._blocks]
        return [self._v.new_empty((rows, width), dtype=self._dtype) for width in widths]

    def softmax(
        self, x: Tensor, *, temp: float, out: list[Tensor], center: Tensor | None = None
    ) -> _Softmax:
        """Write exponentials of ``(x . w_k - center_k) / temp``; sum up more of centred ones."""
        mean = x.mean(dim=(0, 1))
        x = x.flatten(0, 1) / temp
        bias = None if center is None else center / -temp
        has_peaks = not self._is_bounded(x, bias)
        x = x.to(self._dtype)
        peaks, totals, moments, means = [], [], [], []
        for block, room in zip(self._blocks, out, strict=True):
            rows = self.rows(block)
            logits = x @ rows.to(self._dtype).T
            if bias is not None:
                logits = logits + bias[block]
            peak = x.new_zeros(len(x), dtype=torch.float32)
            if has_peaks:
                logits = logits.float()
                peak = logits.amax(dim=-1)
                logits -= peak.unsqueeze(-1)
            torch.exp(logits, out=room)
            peaks.append(peak)
            totals.append(room.sum(dim=-1, dtype=torch.float32))
            if bias is not None:
                moments.append(torch.linalg.vecdot(room.float(), logits.float()))
                means.append(rows @ mean)
        return _Softmax(
            peaks=torch.stack(peaks), totals=torch.stack(totals), moments=moments, means=means
        )

    def _is_bounded(self, x: Tensor, bias: Tensor | None) -> bool:
        """Tell if exponentials fit without their peak; False where the host would have to wait."""
        if x.device.type not in _READ_AT_ONCE:
            return False
        bound = torch.linalg.vector_norm(x, dim=-1).amax() * self._g.abs().amax()
        if bias is not None:
            bound = bound + bias.abs().amax()
        return bool(bound <= _LARGEST_LOGIT)

    def expected_rows(self, exponentials: list[Tensor], factors: Tensor) -> Tensor:
        """Mean row of the layer under the probabilities of each row: (rows, bottleneck)."""
        total = torch.zeros((), device=factors.device)
        for block, exponential, factor in zip(self._blocks, exponentials, factors, strict=True):
            total = total + factor * (exponential @ self.rows(block).to(self._dtype))
        return total

    def collect_gradient(
        self,
        d_weight: Tensor,
        exponentials: list[Tensor],
        factors: Tensor,
        right: Tensor,
        *,
        first: bool,
    ) -> None:
        """Probabilities, transposed, times ``right``: write the first slice's, add the others'."""
        for block, exponential, factor in zip(self._blocks, exponentials, factors, strict=True):
            product = exponential.T @ (factor * right).to(self._dtype)
            d_weight[block] = product if first else d_weight[block] + product

    def through_weight_norm(self, d_weight: Tensor, *, scale: Tensor) -> Tensor:
        """Turn the weight's gradient into ``weight_v``'s, in place; return that of ``weight_g``."""
        d_g = torch.empty_like(self._norms)
        for block in self._blocks:
            gradient, v, norms = d_weight[block], self._v[block], self._norms[block]
            d_g[block] = torch.linalg.vecdot(gradient, v).unsqueeze(-1) / norms
            gradient.addcmul_(v, d_g[block] / norms, value=-1).mul_(self._scales[block] * scale)
        return d_g.mul_(scale)


def _of_others(values: Tensor, crops: int) -> Tensor:
    """Return for each of ``crops`` crops the sum of ``values`` over all crops of other numbers."""
    total = values.sum(dim=0).expand(crops, *values.shape[1:])
    own = min(crops, len(values))
    return torch.cat([total[:own] - values[:own], total[own:]])
