"""Optimizer mechanics: parameter groups, per-tensor clipping, frozen parts, LARS."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

OptimizerName = Literal["adamw", "sgd", "lars"]


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups: weights that are decayed, then biases and 1-D parameters that never are.

    Tokens, position embeddings and the last layer count as weights, as in the original.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_plain = name.endswith(".bias") or parameter.ndim == 1
            (plain if is_plain else decayed).append(parameter)
    return [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(
    name: OptimizerName, groups: list[dict[str, Any]], *, device: torch.device
) -> torch.optim.Optimizer:
    """An optimizer whose learning rate and weight decay are set before each step.

    Raises:
        ValueError: Unknown name.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=device.type in ("cuda", "cpu"))
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9)
    if name == "lars":
        return LARS(groups, momentum=0.9)
    raise ValueError(f"no optimizer named {name!r}; choose one of adamw, sgd, lars")


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Learning rate of both groups, weight decay of the first."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.param_groups[0]["weight_decay"] = weight_decay


def peak_lr(base_lr: float, *, batch_size: int) -> float:
    """Linear scaling: ``base_lr`` is meant for a batch of 256 images.

    Source: https://arxiv.org/abs/2104.14294, section 3.2.
    """
    return base_lr * batch_size / 256


@torch.no_grad()
def clip_each_gradient(
    parameters: Iterable[nn.Parameter], max_norm: float
) -> Float[Tensor, " tensors"]:
    """Scale the gradient of each tensor, on its own, to an L2 norm of at most ``max_norm``.

    Args:
        parameters: Parameters; those without a gradient are left out.
        max_norm: The bound; 0 clips nothing.

    Returns:
        The norm of each gradient before clipping, on the device.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(grads))
    if max_norm:
        scales = (max_norm / (norms + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, list(scales.unbind()))
    return norms


def drop_gradients(module: nn.Module) -> None:
    """Forget the gradients of a part, so that the optimizer leaves it alone in this step."""
    for parameter in module.parameters():
        parameter.grad = None


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
        """Update every parameter that has a gradient."""
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
                buffer.mul_(group["momentum"]).add_(direction)
                p.sub_(group["lr"] * buffer)
