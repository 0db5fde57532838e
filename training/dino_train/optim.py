"""Optimizer mechanics: parameter groups, clipping, frozen parts, guarded updates."""

import contextlib
import functools
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dino_train.health import SkippedSteps
from dino_train.lars import LARS

_CHECKED_ON = ("cuda",)  # devices whose fused kernels are compared before they are used
_CHECK_ERROR = 1e-5  # of weights near 1 after steps of 0.1: rounding leaves 1e-6

logger = logging.getLogger(__name__)


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

    On a GPU the fused kernel is first compared with plain steps on the CPU, and left where it
    differs, with a line that says so.

    Raises:
        ValueError: Unknown name.
    """
    if name == "lars":
        return LARS(groups, momentum=0.9)
    if name not in ("adamw", "sgd"):
        raise ValueError(f"no optimizer named {name!r}; choose one of adamw, sgd, lars")
    device = groups[0]["params"][0].device
    return _build(name, groups, fused=device.type not in _CHECKED_ON or _fused_works(name, device))


def _build(name: str, groups: list[dict[str, Any]], *, fused: bool) -> torch.optim.Optimizer:
    """AdamW or SGD, its first moments in place, so that the first step can be called off."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    on_cpu = parameters[0].device.type == "cpu"
    if name == "sgd":
        sgd = torch.optim.SGD(groups, lr=0.0, momentum=0.9, fused=fused)
        for parameter in parameters:
            # The fused kernel leaves new buffers undefined when its first step is skipped.
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    if fused:
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    adamw = torch.optim.AdamW(groups, lr=0.0, fused=False, capturable=not on_cpu)
    for parameter in parameters:
        adamw.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return adamw


@functools.cache
def _fused_works(name: str, device: torch.device) -> bool:
    """Compare fused steps on a device, one of them called off, with plain ones on the CPU."""
    try:
        weights = [
            _three_steps(name, torch.device("cpu"), fused=False),
            _three_steps(name, device, fused=True).cpu(),
        ]
        error = float((weights[0] - weights[1]).abs().max())
        complaint = "" if error <= _CHECK_ERROR else f"weights differ by {error:.1g} after 3 steps"
    except RuntimeError as raised:
        complaint = str(raised).partition("\n")[0]
    if complaint:
        logger.warning(
            "steps of %s are taken without its fused kernel, which does not work on %s: %s",
            name,
            device,
            complaint,
        )
    return not complaint


def _three_steps(name: str, device: torch.device, *, fused: bool) -> Float[Tensor, " weights"]:
    """Weights after three steps from the same start, the second of which is called off."""
    numbers = torch.linspace(-1, 1, 70)  # no random number is drawn
    parameters = [
        nn.Parameter(part.clone().to(device)) for part in (numbers.view(10, 7), numbers[:9])
    ]
    groups: list[dict[str, Any]] = [
        {"params": parameters[:1]},
        {"params": parameters[1:], "weight_decay": 0.0},
    ]
    optimizer = _build(name, groups, fused=fused)
    for number, applies in enumerate((True, False, True)):
        for parameter in parameters:
            parameter.grad = (3 * parameter.detach() + number).sin()
        set_rates(optimizer, lr=0.1, weight_decay=0.1)
        step_if(optimizer, torch.tensor(applies, device=device))
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def step_if(optimizer: torch.optim.Optimizer, applies: Bool[Tensor, ""]) -> None:
    """Take the step where the flag, which stays on the device, is true.

    Where it is false, parameters, moments and step counts stay what they were, bit for bit: fused
    optimizers and ``LARS`` look at ``found_inf`` as they do for a loss scaler; others are put back.
    """
    if optimizer.param_groups[0].get("fused") is False:
        _step_or_go_back(optimizer, applies)
        return
    optimizer.grad_scale, optimizer.found_inf = None, (~applies).float()  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


@torch.no_grad()
def _step_or_go_back(optimizer: torch.optim.Optimizer, applies: Bool[Tensor, ""]) -> None:
    changing = [p for group in optimizer.param_groups for p in group["params"]]
    changing += [value for p in list(changing) for value in optimizer.state[p].values()]
    before = [tensor.clone() for tensor in changing]
    optimizer.step()
    for tensor, old in zip(changing, before, strict=True):
        tensor.copy_(torch.where(applies, tensor, old))


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
        # How steps are computed is this device's matter, not that of the one that saved.
        own = [
            {name: group[name] for name in ("fused", "capturable") if name in group}
            for group in self._optimizer.param_groups
        ]
        saved = state["optimizer"]["param_groups"]
        groups = [{**group, **ours} for group, ours in zip(saved, own, strict=True)]
        self._optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        self._scaler.load_state_dict(state["scaler"])
