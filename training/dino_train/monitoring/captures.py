"""Steps that were not finite: the first of a run is kept, and can be taken again.

Such a step changes nothing, so the state after it is the state before it.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_infer.devices import resolved_device
from dino_infer.errors import RunError, first_line
from dino_infer.files import check_zip, make_folder, whole_file
from dino_train import distributed
from dino_train.config import as_dict, from_dict
from dino_train.data.dataset import Batch
from dino_train.distributed import Process
from dino_train.learner import CropGroups, Learner, Rates, StepOutcome
from dino_train.records.run_folder import NONFINITE
from dino_train.run import Run, build_learner


class Captures:
    """Keeps the crops and the state of a run's first step that is not finite, one in each process.

    Args:
        run: The run; its step is the one that was just taken.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._path = run.out / NONFINITE / f"process-{run.process.rank}.pt"
        self._done = self._path.exists()

    def look(
        self,
        outcome: StepOutcome,
        parts: Sequence[CropGroups],
        batches: Sequence[Batch],
        *,
        skipped: int,
    ) -> None:
        """Keep the step if it is the first that was not finite.

        A GPU would have to be waited for, so its steps are looked at only once a row has told of
        one that was skipped: what is kept there is the next.

        Args:
            outcome: Result of the step, whose number is the run's.
            parts: Crops of the step.
            batches: The images that they show.
            skipped: Steps that rows have told to be skipped.
        """
        if self._done or (self._run.process.device.type != "cpu" and not skipped):
            return
        if outcome.applied:
            return
        self._done = True
        make_folder(self._path.parent)
        with whole_file(self._path) as temporary:
            torch.save(self._content(outcome, parts, batches), temporary)

    def _content(
        self, outcome: StepOutcome, parts: Sequence[CropGroups], batches: Sequence[Batch]
    ) -> dict[str, Any]:
        run, process = self._run, self._run.process
        state = run.learner.state()
        if scaler := state["scaler"]:  # which the step has moved: it has backed off
            state["scaler"] = {**scaler, "scale": scaler["scale"] / scaler["backoff_factor"]}
        return {
            "step": run.step,
            "config": as_dict(run.config),
            "rank": process.rank,
            "world_size": process.world_size,
            "device": process.device.type,
            "threads": torch.get_num_threads(),
            "images": [run.images.name(int(i)) for batch in batches for i in batch.indices],
            "parts": [list(groups) for groups in parts],
            "rates": dataclasses.asdict(run.rates(run.step)),
            "frozen": run.frozen(run.step),
            "state": state,
            "numbers": _numbers(outcome),
            "gradients": _fingerprint(run.learner),
        }


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A captured step that was taken again."""

    step: int
    images: list[str]
    numbers: dict[str, float]
    """Health of the step and the norm of its gradient, as they come out now."""
    not_finite: list[str]
    """Parameters whose gradient is not finite."""
    same: bool
    """True if numbers and gradients have the bits of the first time."""


def replay(run: Path) -> Replay:
    """Take the captured step of a run again, from the crops and the state that were kept.

    Raises:
        RunError: There is none, it is damaged, or several processes took the step together.
    """
    path = run / NONFINITE / "process-0.pt"
    if not path.is_file():
        raise RunError(
            f"{str(run)!r} has no captured step: none was seen that is not finite"
            if run.is_dir()
            else f"{str(run)!r} is not a run folder; pass the `out` of a run"
        )
    try:
        check_zip(path)
        kept: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        config, rates = from_dict(kept["config"]), Rates(**kept["rates"])
    except Exception as error:  # damaged bytes can make the readers raise nearly anything
        raise RunError(f"{str(path)!r} cannot be read ({first_line(error)})") from error
    if kept["world_size"] > 1:
        raise RunError(
            f"step {kept['step']} was taken by {kept['world_size']} processes together, whose sums "
            "one alone cannot take in the same order, so its bits would differ; the crops and the "
            f"state of each are in {str(path.parent)!r}"
        )
    device = resolved_device(kept["device"])
    torch.set_num_threads(kept["threads"])  # the order of sums depends on them
    learner = build_learner(config, Process(rank=0, world_size=1, device=device))
    learner.load_state(kept["state"])
    parts = [[group.to(device) for group in groups] for groups in kept["parts"]]
    distributed.seed_everything(config.seed, kept["step"], kept["rank"])
    outcome = learner.step(parts, rates=rates, **kept["frozen"])
    numbers = _numbers(outcome)
    gradients = {name: p.grad for name, p in learner.student.named_parameters()}
    return Replay(
        step=kept["step"],
        images=kept["images"],
        numbers={name: value.item() for name, value in numbers.items()},
        not_finite=[n for n, g in gradients.items() if g is not None and not g.isfinite().all()],
        same=_fingerprint(learner) == kept["gradients"]
        and all(_bits(numbers[name]) == _bits(value) for name, value in kept["numbers"].items()),
    )


def _numbers(outcome: StepOutcome) -> dict[str, Tensor]:
    return {
        name: value.detach().float().cpu()
        for name, value in {**outcome.health, "grad_norm": outcome.grad_norm}.items()
    }


def _bits(number: Tensor) -> int:
    return int(number.view(torch.int32))


def _fingerprint(learner: Learner) -> str:
    """SHA-256 of all gradients of the step, after clipping."""
    digest = hashlib.sha256()
    for parameter in learner.student.parameters():
        if parameter.grad is not None:
            digest.update(parameter.grad.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
