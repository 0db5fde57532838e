"""LARS, an optimizer for large batches of convnets."""

from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step on each weight tensor is scaled to the tensor's norm.

    Tensors with one dimension take plain momentum steps without weight decay.

    Source: You et al. 2017, https://arxiv.org/abs/1708.03888, equation 6 and algorithm 1.
    """

    def __init__(
        self, params: Any, *, momentum: float = 0.9, trust_coefficient: float = 0.001
    ) -> None:
        defaults = {
            "lr": 0.0,
            "weight_decay": 0.0,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient, unless ``found_inf`` is set to 1."""
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                direction = p.grad
                if p.ndim != 1:
                    direction = direction.add(p, alpha=group["weight_decay"])
                    weight_norm, grad_norm = p.norm(), direction.norm()
                    trust = group["trust_coefficient"] * weight_norm / grad_norm
                    usable = (weight_norm > 0) & (grad_norm > 0)
                    direction = direction * torch.where(usable, trust, torch.ones_like(trust))
                buffer = self.state[p].get("momentum_buffer")
                if buffer is None:
                    buffer = self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                moved = group["momentum"] * buffer + direction
                updated = p - group["lr"] * moved
                if found_inf is not None:
                    moved = torch.where(found_inf > 0, buffer, moved)
                    updated = torch.where(found_inf > 0, p, updated)
                buffer.copy_(moved)
                p.copy_(updated)
