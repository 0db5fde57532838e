"""Run folders as their readers see them: which snapshots they hold, and where the weights are."""

import json
import logging
import re
from pathlib import Path

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
SNAPSHOTS = "snapshots"

_SNAPSHOT = re.compile(r"step-(\d{8,})\.pt")


def snapshot_path(run: Path, step: int) -> Path:
    """Path of the snapshot after ``step`` optimizer updates."""
    return run / SNAPSHOTS / f"step-{step:08d}.pt"


def snapshots_of(run: Path) -> dict[int, Path]:
    """Snapshots of a run by step, oldest first; other files and folders are left out."""
    found = {}
    for path in (run / SNAPSHOTS).glob("step-*.pt"):
        name = _SNAPSHOT.fullmatch(path.name)
        if name and path == snapshot_path(run, int(name[1])) and path.is_file():
            found[int(name[1])] = path
    return dict(sorted(found.items()))


def newest_weights(run: Path) -> Path | None:
    """File with the newest teacher of a run, or None if it has no weights.

    That is the checkpoint. A run that ended between a snapshot and its checkpoint has an old one
    or none: then it is the snapshot, and a warning says so.
    """
    checkpoint = run / CHECKPOINT
    last_step, snapshot = next(reversed(snapshots_of(run).items()), (0, None))
    there = checkpoint.is_file()
    if snapshot is None:
        return checkpoint if there else None
    step = _step_of(checkpoint) if there else 0
    if step is None or step >= last_step:
        return checkpoint
    logger.warning(
        "%s %s, so the weights of %s are taken; the same dino-train command renews it",
        checkpoint,
        f"has weights of step {step:,}" if there else "is missing",
        snapshot.name,
    )
    return snapshot


def _step_of(checkpoint: Path) -> int | None:
    """Step that a checkpoint says it has; None if it says nothing, or cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(checkpoint, framework="pt") as file:
            step = json.loads((file.metadata() or {}).get("dino", "{}"))["step"]
    except (SafetensorError, OSError, ValueError, RecursionError, LookupError, TypeError):
        return None  # the reader of the weights reports the error
    return step if isinstance(step, int) else None
