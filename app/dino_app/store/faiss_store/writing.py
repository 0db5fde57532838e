"""The one writer of a store: operations into the log, then into ``HEAD``, then into the view."""

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock, RLock, Thread

import numpy as np

from dino_app.errors import StoreError
from dino_app.store.faiss_store import merging, snapshots
from dino_app.store.faiss_store.base import Base, base_folders, remove_unless_held
from dino_app.store.faiss_store.disk.head import Head, HeadFile, heads_of
from dino_app.store.faiss_store.disk.locking import lock_folder
from dino_app.store.faiss_store.disk.log import (
    Delete,
    LogWriter,
    Operation,
    Upsert,
    log_numbers,
    log_path,
)
from dino_app.store.faiss_store.disk.manifest import sync
from dino_app.store.faiss_store.disk.thumbnail_files import Pictures
from dino_app.store.faiss_store.following import Follower, open_state
from dino_app.store.faiss_store.view import Entry, View
from dino_app.store.interface import Item

logger = logging.getLogger(__name__)

WAITING_ROWS = 200_000
"""So many rows, or as many as in the base, may wait for a merge before writers wait too."""
MOST_WAITING_ROWS = 1_000_000
"""Limit on them however large the base is, as they are in memory."""


class Writer:
    """Changes a folder, and sees its own changes at once."""

    def __init__(self, folder: Path) -> None:
        """Takes the only place for a writer and finishes what a crash left unfinished.

        Raises:
            StoreLockedError: Another process writes to it.
            StoreError: It is damaged.
            OSError: It cannot be read or written.
        """
        self._folder = folder
        self._writing = RLock()
        self._reading = Lock()
        self._merging = Lock()
        self._thread: Thread | None = None
        self._merge_failed_at = 0
        self._broken = ""
        self._pictures = Pictures(folder)
        with ExitStack() as undo:
            self._lock = lock_folder(folder)
            undo.callback(os.close, self._lock)
            self._head_file = HeadFile(folder, writable=True)
            undo.callback(self._head_file.close)
            self._head, self._follower = open_state(folder, self._head_file, writable=True)
            self._repair_head()
            self._clear(newest_log=self._follower.log)
            self._log = self._last_log()
            sync(folder)
            undo.pop_all()
        if self._follower.view.base.index_was_damaged:
            self._start_merge()

    def view(self) -> View:
        """The newest version."""
        return self._follower.view

    def entries(self, ids: Sequence[str]) -> dict[str, Entry]:
        """Items by id, of those that are there."""
        with self._reading:
            return self._follower.view.entries(ids)

    def upsert(self, items: Sequence[Item]) -> View:
        """Implement ``Store.upsert`` for checked items; returns the version that holds them."""
        self._wait_for_merge()
        with self._writing:
            self._check_usable()
            try:
                places = self._pictures.add([item.thumbnail for item in items])
            except OSError as error:
                raise StoreError(f"{self._folder} cannot be written: {error}") from error
            added = Upsert(
                ids=[item.id for item in items],
                vectors=np.stack([item.vector for item in items]),
                metadata=[dict(item.metadata) for item in items],
                pictures=places,
            )
            return self._commit(added)

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Implement ``Store.delete``; on a StoreError nothing has happened."""
        self._wait_for_merge()
        with self._writing:
            self._check_usable()
            there = self._follower.view.present(ids)
            if there:
                self._commit(Delete(there))
            return there

    def merge(self) -> None:
        """Implement ``FaissStore.merge``."""
        with self._merging:
            try:
                start, view = self._beginning_of_merge()
                name, digest = merging.write_merged_base(self._folder, view)
                start = replace(start, base=name, manifest_sha256=digest)
                base = Base(self._folder / name, manifest_sha256=digest)
                follower = Follower(self._folder, base, start)
                follower.follow(self._head)
                with self._writing:
                    self._adopt(follower, start)
            except OSError as error:
                raise StoreError(f"{self._folder} cannot be merged: {error}") from error
            self._clear()

    def snapshot(self, name: str) -> None:
        """Implement ``Store.snapshot``."""
        with self._writing:
            self._check_usable()
            try:
                last = self._follower.log
                self._next_log()
                snapshots.write(self._folder, name, self._head, last_log=last)
            except OSError as error:
                raise StoreError(f"snapshot {name!r} cannot be written: {error}") from error

    def restore(self, name: str) -> None:
        """Implement ``Store.restore``."""
        with self._merging, self._writing:
            self._check_usable()
            try:
                head = snapshots.link_state(self._folder, name, self._head)
                base = Base(self._folder / head.base, manifest_sha256=head.manifest_sha256)
                follower = Follower(self._folder, base, head)
                follower.follow(head)
                number = log_numbers(self._folder)[-1] + 1
                log = self._new_log(number)
                for _ in range(2):  # both slots: one alone would be the state before
                    self._move_head(head, undo_to=None)
            except OSError as error:
                raise StoreError(f"snapshot {name!r} cannot be restored: {error}") from error
            with self._reading:
                self._follower = follower
            self._use_log(log, number)

    def close(self) -> None:
        """Finish a merge that is going on and let go of the folder."""
        while (thread := self._thread) is not None:
            thread.join()
        with self._writing:
            self._log.close()
            self._head_file.close()
            os.close(self._lock)

    def _commit(self, operation: Operation) -> View:
        place, follower = self._log.end, self._follower
        try:
            chain = self._log.append(follower.sequence + 1, follower.chain, operation)
        except OSError as error:
            raise StoreError(f"{self._folder} cannot be written: {error}") from error
        self._move_head(
            replace(self._head, sequence=follower.sequence + 1, chain=chain), undo_to=place
        )
        try:
            with self._reading:
                follower.apply(operation, chain=chain, end=self._log.end)
        except BaseException:
            self._broken = f"{self._folder} is ahead of this process; open it again"
            raise
        view = follower.view
        if merging.is_due(view) and len(view.delta_alive) >= self._merge_failed_at:
            self._start_merge()
        return view

    def _repair_head(self) -> None:
        """After a crash: an operation that is in the logs counts, and both slots are whole."""
        sequence, chain = self._follower.sequence, self._follower.chain
        while sequence != self._head.sequence or len(heads_of(self._head_file.raw())) == 1:
            self._move_head(replace(self._head, sequence=sequence, chain=chain), undo_to=None)

    def _move_head(self, head: Head, *, undo_to: int | None) -> None:
        head = replace(head, commit=self._head.commit + 1)
        try:
            self._head_file.write(head)
        except OSError as error:
            self._broken = f"{self._folder} cannot be written: {error}; open it again"
            with suppress(OSError, StoreError):  # where HEAD tells of the operation, it stays
                if undo_to is not None and self._head_file.read() == self._head:
                    self._log.take_back(undo_to)
            raise StoreError(self._broken) from error
        self._head = head

    def _adopt(self, follower: Follower, start: Head) -> None:
        """Go on from a merged base, with what was written during the merge."""
        self._check_usable()
        head = replace(start, sequence=self._head.sequence, chain=self._head.chain)
        follower.follow(head)
        follower.log, follower.offset = self._follower.log, self._follower.offset
        self._move_head(head, undo_to=None)
        with self._reading:
            self._follower = follower

    def _last_log(self) -> LogWriter:
        path = log_path(self._folder, self._follower.log)
        if path.exists() and path.stat().st_nlink > 1:  # a snapshot needs it as it is
            self._follower.move_to(self._follower.log + 1)
            path = log_path(self._folder, self._follower.log)
        return LogWriter(path, end=self._follower.offset)

    def _beginning_of_merge(self) -> tuple[Head, View]:
        """Return a ``HEAD`` for a merge, and the view to merge; later writes go to a new log."""
        with self._writing:
            self._check_usable()
            merged, view = self._follower, self._follower.view
            start = replace(self._head, base_sequence=merged.sequence, base_chain=merged.chain)
            self._next_log()
            return replace(start, log=merged.log), view

    def _next_log(self) -> None:
        """Write what comes to a new log, so that the one before stays as it is."""
        number = self._follower.log + 1
        self._use_log(self._new_log(number), number)

    def _new_log(self, number: int) -> LogWriter:
        log = LogWriter(log_path(self._folder, number), end=0)
        sync(self._folder)
        return log

    def _use_log(self, log: LogWriter, number: int) -> None:
        self._log.close()
        self._log = log
        self._follower.move_to(number)

    def _start_merge(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._merge_in_background, name="dino-merge")
            self._thread.start()

    def _merge_in_background(self) -> None:
        try:
            self.merge()
            self._merge_failed_at = 0
        except (StoreError, RuntimeError, MemoryError) as error:  # FAISS raises the others
            self._merge_failed_at = 2 * len(self._follower.view.delta_alive)
            logger.warning("%s; trying again later", error)
        finally:
            self._thread = None

    def _wait_for_merge(self) -> None:
        view, thread = self._follower.view, self._thread
        if thread is not None and len(view.delta_alive) > max(
            WAITING_ROWS, min(view.base.rows, MOST_WAITING_ROWS)
        ):
            thread.join()

    def _check_usable(self) -> None:
        if self._broken:
            raise StoreError(self._broken)

    def _clear(self, *, newest_log: int | None = None) -> None:
        """Remove bases and logs that neither slot of ``HEAD`` needs."""
        heads = heads_of(self._head_file.raw())
        needed = {head.base for head in heads}
        for path in base_folders(self._folder):
            if path.name not in needed:
                remove_unless_held(path)
        oldest = min(head.log for head in heads)
        for number in log_numbers(self._folder):
            if number < oldest or (newest_log is not None and number > newest_log):
                log_path(self._folder, number).unlink()
