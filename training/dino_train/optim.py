"""Optimizer mechanics: parameter groups, clipping, frozen parts, guarded updates, LARS."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dino_train.health import SkippedSteps


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


def build_optimizer(name: str, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """An optimizer for ``step_if``, whose rates are set before each step.

    Raises:
        ValueError: Unknown name.
    """
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    if name == "sgd":
        return _sgd(groups)
    if name == "lars":
        return LARS(groups, momentum=0.9)
    raise ValueError(f"no optimizer named {name!r}; choose one of adamw, sgd, lars")


def _sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=True)
    for group in groups:
        for parameter in group["params"]:
            # The fused kernel leaves new buffers undefined when its first step is skipped.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def step_if(optimizer: torch.optim.Optimizer, applies: Bool[Tensor, ""]) -> None:
    """Take the step where the flag, which stays on the device, is true.

    Where it is false, parameters, moments and step counts stay what they were, bit for bit: fused
    optimizers and ``LARS`` look at ``found_inf`` as they do for a loss scaler.
    """
    optimizer.grad_scale, optimizer.found_inf = None, (~applies).float()  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


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
        max_norm: The bound; 0 disables clipping.

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


class GuardedUpdate:
    """Guarded updates of the student: skipped where a number is not finite.

    Args:
        optimizer: Optimizer of the student's parameters, from ``build_optimizer``.
        student: The student as it runs, wrapped where gradients are averaged over processes.
        buffers: Statistics that forward passes change; a skipped step puts them back.
        scaled: Scale the loss, for float16.
        clip_grad: Bound on the norm of each gradient tensor; 0 disables clipping.
        device: Device of the student.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        student: nn.Module,
        *,
        buffers: Sequence[Tensor],
        scaled: bool,
        clip_grad: float,
        device: torch.device,
    ) -> None:
        self.skipped = SkippedSteps(device)
        self._optimizer = optimizer
        self._student = student
        self._buffers = buffers
        self._before: list[Tensor] = []
        self._scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        self._clip_grad = clip_grad

    def begin(self) -> None:
        """Forget the gradients of the last step, and remember the statistics."""
        self._optimizer.zero_grad(set_to_none=True)
        self._before = [buffer.clone() for buffer in self._buffers]

    def synchronised(self, *, last: bool) -> contextlib.AbstractContextManager[object]:
        """Average gradients over processes, in the last part of a batch only."""
        if last or not isinstance(self._student, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self._student.no_sync()

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Add the gradients of one part of the batch."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def apply(
        self, *, lr: float, weight_decay: float, frozen: Iterable[nn.Module], numbers: Tensor
    ) -> tuple[Bool[Tensor, ""], Float[Tensor, ""]]:
        """Clip, freeze and step, unless a gradient or one of ``numbers`` is not finite.

        Returns:
            The flag of a step that counted, the same in all processes, and the L2 norm of the
            whole gradient before clipping; both stay on the device.
        """
        self._scaler.unscale_(self._optimizer)
        norms = clip_each_gradient(self._student.parameters(), self._clip_grad)
        applied = norms.isfinite().all() & numbers.isfinite().all()
        for part in frozen:
            drop_gradients(part)
        set_rates(self._optimizer, lr=lr, weight_decay=weight_decay)
        step_if(self._optimizer, applied)
        for buffer, old in zip(self._buffers, self._before, strict=True):
            buffer.copy_(torch.where(applied, buffer, old))
        self.skipped.count(applied)
        if self._scaler.is_enabled():
            self._scaler.update()
        return applied, norms.norm()

    def state(self) -> dict[str, Any]:
        """Optimizer and scaler, as tensors and plain types."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


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
