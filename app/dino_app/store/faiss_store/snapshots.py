"""Named states of a store: hard links to files that never change, and a ``HEAD`` of their own.

snapshots/NAME/      HEAD, base-000042/, log-000007, thumbnails-000001
"""

import os
import shutil
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from dino_app.errors import StoreError
from dino_app.store.faiss_store.base import base_path, link_base, link_or_copy
from dino_app.store.faiss_store.disk import head as heads
from dino_app.store.faiss_store.disk.head import Head, HeadFile, heads_of
from dino_app.store.faiss_store.disk.locking import lock_folder
from dino_app.store.faiss_store.disk.log import log_numbers, log_path
from dino_app.store.faiss_store.disk.manifest import sync
from dino_app.store.faiss_store.disk.thumbnail_files import picture_files
from dino_app.store.faiss_store.following import open_state
from dino_app.store.faiss_store.merging import next_number
from dino_app.store.item_checks import checked_name
from dino_infer.files import write_bytes

FOLDER = "snapshots"
_UNFINISHED = "~"  # no name ends with it


def names(folder: Path) -> list[str]:
    """Snapshots of a store, sorted."""
    if not (folder / FOLDER).is_dir():
        return []
    found = (path for path in (folder / FOLDER).iterdir() if (path / heads.NAME).is_file())
    return sorted(path.name for path in found if not path.name.endswith(_UNFINISHED))


def write(folder: Path, name: str, head: Head, *, last_log: int) -> None:
    """Keep the state of a ``HEAD``; the logs it needs must not grow any more.

    Raises:
        ValueError: The name is not allowed or taken.
        OSError: It cannot be written.
    """
    target = folder / FOLDER / checked_name(name)
    if target.exists():
        raise ValueError(f"there is a snapshot {name!r} already")
    temporary = target.with_name(f"{name}.dino-tmp{_UNFINISHED}")  # no other process writes here
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    link_base(folder / head.base, temporary / head.base)
    logs = [log_path(folder, number) for number in range(head.log, last_log + 1)]
    for path in [*logs, *picture_files(folder)]:
        link_or_copy(path, temporary / path.name)
    write_bytes(temporary / heads.NAME, heads.first_slots(head))
    temporary.replace(target)
    sync(folder / FOLDER)
    sync(folder)


def link_state(folder: Path, name: str, present: Head) -> Head:
    """Bring the files of a snapshot into the store, under new names, without using them yet.

    Returns:
        The ``HEAD`` that makes them the present state.

    Raises:
        StoreError: No such snapshot, or it is damaged.
        OSError: They cannot be written.
    """
    source = folder / FOLDER / checked_name(name)
    kept = checked_head(folder, name)
    base = base_path(folder, next_number(folder))
    link_base(source / kept.base, base)
    logs = log_numbers(source)
    # One number is left out, so that they cannot pass for a continuation of the present log.
    first = max([0, *log_numbers(folder)]) + 2
    for number in logs:
        link_or_copy(log_path(source, number), log_path(folder, first + number - logs[0]))
    for path in picture_files(source):
        if not (folder / path.name).exists():
            link_or_copy(path, folder / path.name)
    sync(folder)
    epoch = max(present.epoch, kept.epoch) + 1
    return replace(kept, base=base.name, log=first, epoch=epoch, commit=present.commit + 1)


def checked_head(folder: Path, name: str) -> Head:
    """The ``HEAD`` of a snapshot whose files are all as they were written.

    Raises:
        StoreError: No such snapshot, or it is damaged.
    """
    if name not in names(folder):
        raise StoreError(f"no snapshot {name!r}; there are {names(folder)}")
    source = folder / FOLDER / name
    try:
        file = HeadFile(source, writable=False)
        try:
            return open_state(source, file)[0]
        finally:
            file.close()
    except (StoreError, OSError) as error:
        raise StoreError(f"snapshot {name!r} is damaged: {error}") from error


def recover(folder: Path, name: str) -> None:
    """Make a snapshot the present state of a store that is too damaged to be opened.

    Raises:
        StoreError: No such snapshot, or it is damaged too.
        StoreLockedError: Another process writes to it.
    """
    with ExitStack() as last:
        try:
            last.callback(os.close, lock_folder(folder))
            kept = checked_head(folder, name)
            file = HeadFile(folder, writable=True)
            last.callback(file.close)
            present = max([kept, *heads_of(file.raw())], key=lambda head: head.commit)
            head = link_state(folder, name, present)
            for commit in (head.commit, head.commit + 1):  # both slots
                file.write(replace(head, commit=commit))
        except OSError as error:
            raise StoreError(f"snapshot {name!r} cannot be restored: {error}") from error


def last_good(folder: Path) -> str | None:
    """The whole snapshot of the newest state, or None."""
    kept = [(folder / FOLDER / name / heads.NAME, name) for name in names(folder)]
    # Not by the time of their files: clocks jump.
    made = [(head.commit, name) for path, name in kept for head in heads_of(path.read_bytes())]
    for _, name in sorted(made, reverse=True):
        with suppress(StoreError):
            checked_head(folder, name)
            return name
    return None
