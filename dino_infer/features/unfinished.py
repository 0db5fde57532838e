"""The folder of an unfinished feature set: recognised, moved into its place, or deleted."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dino_infer.errors import DataError
from dino_infer.features.files import FeaturePaths, read_manifest
from dino_infer.features.journal import APPENDED, FAILED, JOURNAL, ROWS
from dino_infer.files import remove_leftovers, sync_folder

logger = logging.getLogger(__name__)

JOB, MANIFEST = "job.json", "manifest.json"
FINISHED_TABLE = "table.parquet"


def recover_unfinished(paths: FeaturePaths) -> bool:
    """True if a set was begun and can be gone on with; puts one in its place that only had to be.

    Raises:
        OSError: The folder cannot be used.
    """
    folder = paths.partial
    if is_being_moved(paths):
        if _manifest_in(folder / MANIFEST) is not None:
            move_finished(paths)
        else:
            (folder / MANIFEST).unlink()
    has_rows = (folder / ROWS).exists() or not (folder / JOURNAL).exists()
    if has_rows and job_in(folder) is not None:
        return True
    if has_rows and (folder / JOB).exists():
        logger.warning("%s tells of no job: it is begun anew", folder / JOB)
    discard(paths)  # also if a stop met it while it was being deleted
    return False


def is_being_moved(paths: FeaturePaths) -> bool:
    """True if a stop met a finished set on its way into its place."""
    return (paths.partial / MANIFEST).exists()


def move_finished(paths: FeaturePaths) -> None:
    """The last steps of a set; each may have been taken before a stop.

    Steps that must not change places after a power cut have a sync between them.
    """
    # From here to the new manifest the files belong to no set.
    paths.manifest.unlink(missing_ok=True)
    sync_folder(paths.manifest.parent)
    targets = {FAILED: paths.failures, FINISHED_TABLE: paths.table}
    if paths.matrix != paths.table:
        targets[ROWS] = paths.matrix
    for name, target in targets.items():
        if (paths.partial / name).exists():
            (paths.partial / name).replace(target)
    (paths.partial / ROWS).unlink(missing_ok=True)
    for folder in {target.parent for target in targets.values()}:
        sync_folder(folder)
    (paths.partial / MANIFEST).replace(paths.manifest)
    sync_folder(paths.manifest.parent)
    discard(paths)


def discard(paths: FeaturePaths) -> None:
    """Delete an unfinished set, but no other files of its folder.

    After a stop on the way, what is left cannot be gone on with.
    """
    folder = paths.partial
    if not folder.is_dir():
        return
    for name in (JOB, JOURNAL, MANIFEST, FINISHED_TABLE, *APPENDED):
        if (folder / name).is_file():
            (folder / name).unlink()
            if name == JOB:  # what is left of a set must not look like one that was begun
                sync_folder(folder)
    remove_leftovers(folder / JOB, folder / MANIFEST, folder / FINISHED_TABLE)
    with suppress(OSError):  # it stays where it holds files of other names
        folder.rmdir()


def check_same_job(before: Mapping[str, Any], now: Mapping[str, Any], *, where: Path) -> None:
    """Refuse to mix rows that were made differently.

    Raises:
        DataError: The jobs differ; the message says in what.
    """
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        changes = ", ".join(_change(name, before.get(name), now.get(name)) for name in names[:3])
        raise DataError(
            f"{str(where)!r} was made differently: {changes}; use the same images and settings, or "
            "pass `overwrite=True` to start again"
        )


def _change(name: str, before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list):  # there may be thousands of sources
        pairs = [pair for pair in zip_longest(before, now) if pair[0] != pair[1]]
        before, now = pairs[0]
    return f"{name} was {before!r} and is {now!r}"


def finished(paths: FeaturePaths) -> dict[str, Any] | None:
    """The manifest of a finished set, or None where there is none that can be used."""
    return _manifest_in(paths.manifest)


def job_in(folder: Path) -> dict[str, Any] | None:
    """The job of an unfinished set; None if that cannot be told."""
    try:
        content = json.loads((folder / JOB).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _manifest_in(path: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(path)
    except (OSError, ValueError):
        return None
