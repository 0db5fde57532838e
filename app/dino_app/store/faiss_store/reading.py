"""A store that is only read: it follows what another process writes."""

import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Lock, Thread

from dino_app.errors import StoreError
from dino_app.store.faiss_store.disk.head import HeadFile, head_of
from dino_app.store.faiss_store.following import open_state
from dino_app.store.faiss_store.view import Entry, View

logger = logging.getLogger(__name__)


class Reader:
    """The newest view of a folder, from any thread."""

    def __init__(self, folder: Path) -> None:
        """Opens it.

        Raises:
            StoreError: It is damaged.
            OSError: It cannot be read.
        """
        self._folder = folder
        self._head_file = HeadFile(folder, writable=False)
        self._lock = Lock()
        self._thread: Thread | None = None
        self._head, self._follower = open_state(folder, self._head_file)
        self._raw = b""  # not known, as it may have moved on since

    def view(self) -> View:
        """Return a view of everything that was acknowledged before this call."""
        if self._head_file.raw() != self._raw:
            with self._lock:
                self._refresh()
        return self._follower.view

    def entries(self, ids: Sequence[str]) -> dict[str, Entry]:
        """Items by id, of those that are there."""
        self.view()
        with self._lock:
            return self._follower.view.entries(ids)

    def close(self) -> None:
        """Let go of the folder."""
        if (thread := self._thread) is not None:
            thread.join()
        self._head_file.close()

    def _refresh(self) -> None:
        raw = self._head_file.raw()
        head = head_of(raw)
        try:
            if head.epoch != self._head.epoch:
                raise StoreError("a snapshot was restored")
            self._follower.follow(head)
        except StoreError:
            # What we follow is gone; the state is elsewhere, or damaged, which is raised then.
            head, self._follower = open_state(self._folder, self._head_file)
        self._head, self._raw = head, raw
        if head.base != self._follower.base_name and self._thread is None:
            self._thread = Thread(target=self._move_to_next_base, name="dino-next-base")
            self._thread.start()

    def _move_to_next_base(self) -> None:
        """Check and open a merged base while searches go on with the old one."""
        try:
            _, follower = open_state(self._folder, self._head_file)
            with self._lock:
                if self._head.epoch == follower.epoch:
                    follower.follow(self._head)
                    self._follower = follower
        except (StoreError, OSError) as error:
            logger.warning("the merged index cannot be read, going on without: %s", error)
        finally:
            self._thread = None
