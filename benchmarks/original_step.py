"""A training step in the way of the original DINO code, for benchmarks to time against.

Written down from a description of its behaviour, with none of its code: attention as a matrix, one
log-softmax for each pair of crops, loops over parameters for clipping, AdamW and the moving
average.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def original_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    *,
    student_temp: float,
    temp: float,
) -> Tensor:
    """Cross-entropy of every pair of different crops, each with a log-softmax of its own.

    Args:
        student_logits: (student crops x batch, out_dim), crop after crop.
        teacher_logits: (2 x batch, out_dim).
        center: (1, out_dim).
        student_temp: Temperature of the student.
        temp: Temperature of the teacher.
    """
    crops = 2 * len(student_logits) // len(teacher_logits)
    student = (student_logits / student_temp).chunk(crops)
    targets = F.softmax((teacher_logits - center) / temp, dim=-1).detach().chunk(2)
    terms = [
        torch.sum(-q * F.log_softmax(logits, dim=-1), dim=-1).mean()
        for i, q in enumerate(targets)
        for j, logits in enumerate(student)
        if i != j
    ]
    return sum(terms, start=torch.zeros(())) / len(terms)


class MatrixAttention(nn.Module):
    """Stands in for timm's attention, with its weights: the whole attention matrix is formed."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, x: Tensor, **_: object) -> Tensor:
        """Softmax of all products of queries and keys, then the weighted values."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, width))


class OriginalLearner:
    """Student, teacher, centre and optimizer as the original moves them; fp32 or fp16 alone.

    Args:
        student: A ``MultiCropNetwork``; its attention is replaced.
        teacher: Its frozen copy; the same.
        out_dim: Prototypes.
        clip_grad: Bound on the norm of each gradient.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, out_dim: int, *, clip_grad: float = 3.0
    ) -> None:
        for network in (student, teacher):
            for block in network.backbone.network.blocks:
                block.attn = MatrixAttention(block.attn)
        self.student, self.teacher = student, teacher
        self.center = torch.zeros(1, out_dim, device=next(student.parameters()).device)
        decayed, plain = [], []
        for name, parameter in student.named_parameters():
            if parameter.requires_grad:
                is_plain = name.endswith(".bias") or parameter.ndim == 1
                (plain if is_plain else decayed).append(parameter)
        groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.04, foreach=False)
        self.clip_grad = clip_grad

    def step(self, crops: list[Tensor], *, momentum: float = 0.996) -> float:
        """Learn from a batch given as one tensor a crop size, (crops, batch, 3, side, side)."""
        with torch.no_grad():
            teacher_logits = _logits(self.teacher, crops[:1])
        student_logits = _logits(self.student, crops)
        loss = original_loss(
            student_logits, teacher_logits, self.center, student_temp=0.1, temp=0.04
        )
        mean = teacher_logits.sum(dim=0, keepdim=True) / len(teacher_logits)
        self.center = self.center * 0.9 + mean * 0.1
        value = loss.item()
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                norm = parameter.grad.norm(2)
                coefficient = self.clip_grad / (norm + 1e-6)
                if coefficient < 1:
                    parameter.grad.mul_(coefficient)
        self.optimizer.step()
        with torch.no_grad():
            pairs = zip(self.student.parameters(), self.teacher.parameters(), strict=True)
            for mine, theirs in pairs:
                theirs.mul_(momentum).add_((1 - momentum) * mine.detach())
        return value


def _logits(network: nn.Module, crops: list[Tensor]) -> Tensor:
    """One backbone pass a crop size, one head pass over all crops."""
    features = torch.cat([network.backbone(group.flatten(0, 1)) for group in crops])
    return network.head(features)
