"""All that is needed to go on bit for bit, in files that are whole or not there."""

import logging
import re
from pathlib import Path
from typing import Any

import torch

from dino_infer.errors import RunError
from dino_infer.files import whole_file

logger = logging.getLogger(__name__)

State = dict[str, Any]
"""Tensors, numbers, strings, lists and dicts: loads without running any pickled code."""


def save_snapshot(run: Path, state: State, *, step: int) -> Path:
    """Write the state after ``step`` optimizer updates.

    Raises:
        RunError: It cannot be written, say because the disk is full; older snapshots stay.
    """
    path = run / "snapshots" / f"step-{step:08d}.pt"
    try:
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        last = max(_snapshots(run), default=None)
        kept = f"the last good one is {str(last)!r}" if last else "there is no older one"
        raise RunError(
            f"cannot write snapshot {str(path)!r} ({_first_line(error)}); {kept}; "
            "free some space and run the same command again"
        ) from error
    return path


def latest_snapshot(run: Path) -> tuple[State, Path] | None:
    """The newest snapshot that is whole, or None when there is none at all.

    Raises:
        RunError: There are snapshots but not one of them can be read.
    """
    paths = sorted(_snapshots(run), reverse=True)
    for path in paths:
        try:
            state: State = torch.load(path, map_location="cpu", weights_only=True)
            return state, path
        except Exception as error:
            logger.warning("snapshot %s is damaged (%s)", path, _first_line(error))
            if path is not paths[-1]:
                logger.warning("falling back to the one before")
    if paths:
        raise RunError(
            f"none of the {len(paths)} snapshots in {str(paths[0].parent)!r} can be read; "
            "choose another --out to start anew"
        )
    return None


def prune_snapshots(run: Path, *, keep: int, keep_every_steps: int) -> None:
    """Delete all but the newest ``keep`` snapshots and every ``keep_every_steps``-th step."""
    for path in sorted(_snapshots(run))[:-keep]:
        step = int(path.stem.removeprefix("step-"))
        if not keep_every_steps or step % keep_every_steps:
            path.unlink(missing_ok=True)


def _snapshots(run: Path) -> list[Path]:
    return [
        path
        for path in (run / "snapshots").glob("step-*.pt")
        if re.fullmatch(r"step-\d{8}", path.stem)
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
