"""All that is needed to go on bit for bit, in files that are whole or not there."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dino_infer.errors import CheckpointError, RunError, first_line
from dino_infer.files import check_zip, make_folder, remove_leftovers, whole_file
from dino_infer.weights.checkpoints import read_training_weights
from dino_infer.weights.run_folders import SNAPSHOTS, snapshot_path, snapshots_of

logger = logging.getLogger(__name__)

State = dict[str, Any]
"""Tensors, numbers, strings, lists and dicts: loads without running any pickled code."""


def save_snapshot(run: Path, state: State, *, step: int) -> Path:
    """Write the state after ``step`` optimizer updates.

    Raises:
        RunError: It cannot be written, say because the disk is full; older snapshots stay.
    """
    path = snapshot_path(run, step)
    try:
        make_folder(path.parent)
        with whole_file(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        last = next(reversed(snapshots_of(run).values()), None)
        kept = f"the last good one is {str(last)!r}" if last else "there is no older one"
        raise RunError(
            f"cannot write snapshot {str(path)!r} ({first_line(error)}); {kept}; "
            "free some space and run the same command again"
        ) from error
    return path


def latest_snapshot(
    run: Path, accept: Callable[[State], None] = lambda state: None
) -> tuple[State, Path] | None:
    """Newest snapshot that is whole and accepted, or None when there is none at all.

    Args:
        run: The run folder.
        accept: Function that takes over a state, or raises what shows that it is of another run.
            It may have taken over a part by then: an older state follows, or the run ends.

    Raises:
        RunError: There are snapshots but not one of them can be used.
    """
    found = snapshots_of(run)
    for step, path in reversed(found.items()):
        try:
            state = _read(path, step)
            accept(state)
            return state, path
        except Exception as error:  # damaged bytes can make the readers raise nearly anything
            logger.warning(
                "snapshot %s is damaged or of another run (%s)%s",
                path,
                first_line(error),
                "" if step == min(found) else ": falling back to the one before",
            )
    if found:
        raise RunError(
            f"none of the {len(found)} snapshots in {str(run / SNAPSHOTS)!r} can be read and "
            "belongs to this run; choose another `out` for a new run"
        )
    return None


def training_weights(weights: str | Path, checkpoint_key: str) -> dict[str, dict[str, Tensor]]:
    """Weights to start from; of a run folder its newest whole snapshot, which has all parts."""
    for path in reversed(snapshots_of(Path(weights)).values()):
        try:
            return read_training_weights(path, checkpoint_key)
        except CheckpointError as error:
            logger.warning("passed over: %s", error)
    return read_training_weights(weights, checkpoint_key)


def prune_snapshots(run: Path, *, step: int, keep: int, keep_every_steps: int) -> None:
    """Delete snapshots up to ``step`` but the newest ``keep`` and each ``keep_every_steps``-th.

    Later ones were passed over when the run began, so they do not count among the newest.
    """
    past = {done: path for done, path in snapshots_of(run).items() if done <= step}
    for done in list(past)[:-keep]:
        if not keep_every_steps or done % keep_every_steps:
            past[done].unlink(missing_ok=True)


def sweep_snapshots(run: Path) -> None:
    """Delete what killed processes left of unfinished snapshots.

    Raises:
        OSError: A leftover cannot be deleted.
    """
    names = (re.match(r"\.step-(\d+)\.", path.name) for path in (run / SNAPSHOTS).glob(".step-*"))
    remove_leftovers(*{snapshot_path(run, int(name[1])) for name in names if name})


def _read(path: Path, step: int) -> State:
    """Content of a whole snapshot of this step."""
    check_zip(path)
    state: Any = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError(f"it holds a {type(state).__name__}, expected a dict")
    if state.get("step") != step:
        raise ValueError(f"it holds step {state.get('step')!r}")
    return state
