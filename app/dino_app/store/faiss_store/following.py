"""A view that follows the logs: of readers whenever ``HEAD`` moves, of the writer when it opens."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from dino_app.errors import StoreError
from dino_app.store.faiss_store.base import Base
from dino_app.store.faiss_store.disk.head import Head, HeadFile, head_of, heads_of
from dino_app.store.faiss_store.disk.log import Operation, Record, log_path, records
from dino_app.store.faiss_store.view import view_of

_TRIES = 10  # the writer may merge away what a reader is about to open


class Follower:
    """The newest view of a folder, and where in the logs it stands.

    Attributes:
        epoch: Epoch of its ``HEAD``.
        base_name: Folder of its base.
        view: View of what was read so far.
        log: Number of the log that is being read.
        offset: Offset of its next record.
        sequence: The last operation in the view.
        chain: Its hash.
    """

    def __init__(self, folder: Path, base: Base, head: Head) -> None:
        self._folder = folder
        self.epoch = head.epoch
        self.base_name = head.base
        self.log = head.log
        self.offset = 0
        self.sequence = head.base_sequence
        self.chain = head.base_chain
        self.view = view_of(base, version=f"{self.epoch}.{self.sequence}")

    def follow(self, head: Head) -> None:
        """Read up to the last acknowledged operation.

        Raises:
            StoreError: Something that was acknowledged is not there.
        """
        missing = head.sequence - self.sequence
        for log, record in islice(self.unacknowledged(), max(0, missing)):
            self.take(log, record)
        if self.sequence < head.sequence:
            raise StoreError(
                f"the logs are damaged or cut off: of {head.sequence} acknowledged operations "
                f"{self.sequence} are there"
            )
        if self.sequence == head.sequence and self.chain != head.chain:
            raise StoreError(f"the logs do not match HEAD at operation {head.sequence}")

    def unacknowledged(self) -> Iterator[tuple[int, Record]]:
        """Records that continue what was read, and their logs; a crash leaves at most one."""
        log, offset, sequence, chain = self.log, self.offset, self.sequence, self.chain
        while (path := log_path(self._folder, log)).exists():
            dim = self.view.base.dim
            for record in records(path, start=offset, sequence=sequence, chain=chain, dim=dim):
                sequence, chain = record.sequence, record.chain
                yield log, record
            log, offset = log + 1, 0

    def take(self, log: int, record: Record) -> None:
        """Take in a record of a log."""
        self.log = log
        self.apply(record.operation, chain=record.chain, end=record.end)

    def apply(self, operation: Operation, *, chain: str, end: int) -> None:
        """Take in an operation that was just written."""
        self.sequence += 1
        self.view = self.view.after(operation, version=f"{self.epoch}.{self.sequence}")
        self.chain, self.offset = chain, end

    def move_to(self, log: int) -> None:
        """Go on with another log."""
        self.log, self.offset = log, 0


def open_state(
    folder: Path, head_file: HeadFile, *, writable: bool = False
) -> tuple[Head, Follower]:
    """Open the present state of a folder after a check of every file.

    One operation may be in the logs that ``HEAD`` does not know: a crash or a damaged slot kept it
    from there. The writer takes it in, and readers do when a slot is damaged, as it may have been
    acknowledged; otherwise readers wait for the writer.

    Raises:
        StoreError: It is damaged.
        OSError: It cannot be read.
    """
    for _ in range(_TRIES):
        raw = head_file.raw()
        head = head_of(raw)
        try:
            base = Base(folder / head.base, manifest_sha256=head.manifest_sha256)
            follower = Follower(folder, base, head)
            follower.follow(head)
            more = list(islice(follower.unacknowledged(), 2))
            if len(more) > 1:
                raise StoreError(f"HEAD is older than the logs after operation {head.sequence}")
            if more and (writable or len(heads_of(raw)) == 1):
                follower.take(*more[0])
            return head, follower
        except (StoreError, OSError):
            if head_file.raw() == raw:
                raise
    raise StoreError("it changes faster than it can be opened")
