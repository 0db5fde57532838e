"""The embedded store: a folder on a local disk, searched with FAISS in this process.

    photos/
        HEAD             the present state, written last
        LOCK             held by the one writer
        base-000042/     vectors, items, index; never changes
        log-000007       operations since
        thumbnails-000001
        snapshots/NAME/

A search takes one immutable view and answers from it, so writers never disturb it: an index that
changes while it is searched crashes FAISS. What the logs collect is merged into a new base in the
background.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dino_app.errors import StoreError, StoreLockedError
from dino_app.store.faiss_store import merging, searching, snapshots
from dino_app.store.faiss_store.disk import head as heads
from dino_app.store.faiss_store.disk.head import Head, first_slots
from dino_app.store.faiss_store.disk.log import EMPTY_CHAIN, LogWriter, log_path
from dino_app.store.faiss_store.disk.thumbnail_files import Pictures
from dino_app.store.faiss_store.reading import Reader
from dino_app.store.faiss_store.search import approximate
from dino_app.store.faiss_store.view import Entry
from dino_app.store.faiss_store.writing import Writer
from dino_app.store.filters import Filter
from dino_app.store.interface import Found, Included, Item, SearchParams, StoreInfo
from dino_app.store.item_checks import checked_items, checked_name, checked_queries, is_id
from dino_infer.files import whole_folder, write_bytes


class FaissStore:
    """A ``Store`` in a folder; one writer, and readers in any number of processes."""

    def __init__(self, folder: Path, side: Reader | Writer) -> None:
        """Initialize the object; called by ``create`` and ``open``."""
        self._folder = folder
        self._opened: Reader | Writer | None = side
        self._pictures = Pictures(folder)

    @classmethod
    def create(
        cls, folder: str | Path, *, dim: int, model: Mapping[str, Any], index: str = "auto"
    ) -> "FaissStore":
        """A new, empty store, open for writing; see ``create_store``.

        The index "auto" searches exactly up to ``approximate.EXACT_ROWS`` rows and approximately
        beyond; "flat" always exactly; others are strings for ``faiss.index_factory``.

        Raises:
            ValueError: No such index, or no such width.
            StoreError: Something is there already, or it cannot be written.
        """
        if dim < 1:
            raise ValueError(f"vectors need a width of at least 1, got {dim}")
        approximate.check_kind(index, dim)
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreError(f"{folder} is there already")
        try:
            _create(folder, dim=dim, model=model, index=index)
        except OSError as error:
            reason = "another process made it by now" if folder.exists() else error
            raise StoreError(f"{folder} cannot be created: {reason}") from error
        return cls.open(folder, writable=True)

    @classmethod
    def open(cls, folder: str | Path, *, writable: bool = False) -> "FaissStore":
        """An existing store, after a check of every file but the thumbnails; see ``open_store``.

        Raises:
            StoreError: There is none, or it is damaged; the message names the last good snapshot.
            StoreLockedError: Another process writes to it.
        """
        folder = Path(folder)
        if not (folder / heads.NAME).is_file():
            empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
            what = "make it with dino-index build" if empty else "other files are there"
            raise StoreError(f"no index at {str(folder)!r}; {what}{_advice(folder)}")
        try:
            return cls(folder, Writer(folder) if writable else Reader(folder))
        except StoreLockedError:
            raise
        except StoreError as error:
            raise StoreError(f"{folder}: {error}{_advice(folder)}") from error
        except OSError as error:
            raise StoreError(f"{folder} cannot be opened: {error}") from error

    @classmethod
    def recover(cls, folder: str | Path, name: str) -> "FaissStore":
        """A damaged store, back in the state of a snapshot and open for writing.

        Raises:
            StoreError: No such snapshot, or it is damaged too.
            StoreLockedError: Another process writes to it.
        """
        folder = Path(folder)
        snapshots.recover(folder, checked_name(name))
        return cls.open(folder, writable=True)

    def info(self) -> StoreInfo:
        """Return facts about the store."""
        view = self._side.view()
        proposer, manifest = view.base.proposer, view.base.manifest
        return StoreInfo(
            backend="faiss",
            dim=view.base.dim,
            rows=view.rows,
            deleted=view.deleted,
            version=view.version,
            index=approximate.FLAT if proposer is None else proposer.note.kind,
            wanted_index=manifest.wanted_index,
            recall_at_10=None if proposer is None else proposer.note.recall_at_10,
            model=dict(manifest.model),
        )

    def upsert(self, items: Sequence[Item]) -> str:
        """Implement ``Store.upsert``; of several items with one id the last counts."""
        writer = self._writer
        checked = checked_items(items, dim=writer.view().base.dim)
        return (writer.upsert(checked) if checked else writer.view()).version

    def delete(self, ids: Collection[str]) -> list[str]:
        """Implement ``Store.delete``."""
        return self._writer.delete([id for id in ids if is_id(id)])

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """Implement ``Store.get``."""
        found = self._side.entries([id for id in ids if is_id(id)])
        return [found[id].item() if id in found else None for id in ids]

    def thumbnail(self, id: str) -> bytes | None:
        """Implement ``Store.thumbnail``.

        Raises:
            StoreError: It is damaged.
        """
        found = self._side.entries([id]) if is_id(id) else {}
        place = found[id].picture if id in found else None
        return None if place is None else self._pictures.read(place)

    def search(
        self,
        vectors: Float[np.ndarray, "queries dim"],
        *,
        k: int,
        filter: Filter | None = None,
        params: SearchParams | None = None,
        include: Collection[Included] = (),
    ) -> Found:
        """Implement ``Store.search``."""
        view = self._side.view()
        queries = checked_queries(vectors, dim=view.base.dim, k=k)
        params = SearchParams() if params is None else params
        for name, effort in (("ef", params.ef), ("nprobe", params.nprobe)):
            if effort is not None and effort < 1:
                raise ValueError(f"{name} must be at least 1, got {effort}")
        return searching.search(
            view, queries, k=k, condition=filter, params=params, include=include
        )

    def count(self, filter: Filter | None = None) -> int:
        """Implement ``Store.count``."""
        return self._side.view().count(filter)

    def page(
        self, *, after: str | None = None, limit: int = 100, filter: Filter | None = None
    ) -> list[Item]:
        """Implement ``Store.page``."""
        if limit < 1:
            raise ValueError(f"a page holds at least 1 item, got {limit}")
        entries = self._side.view().after_id(after, filter)
        return [entry.item() for entry in islice(entries, limit)]

    def items(self, *, batch: int = 1000) -> Iterator[list[Item]]:
        """Implement ``Store.items``."""
        entries = self._side.view().after_id(None)
        while part := list(islice(entries, batch)):
            yield [self._with_thumbnail(entry) for entry in part]

    def snapshot(self, name: str) -> None:
        """Implement ``Store.snapshot``; takes no room for what does not change afterwards."""
        self._writer.snapshot(checked_name(name))

    def snapshots(self) -> list[str]:
        """Implement ``Store.snapshots``."""
        return snapshots.names(self._folder)

    def restore(self, name: str) -> None:
        """Implement ``Store.restore``."""
        self._writer.restore(checked_name(name))

    def merge(self) -> None:
        """Make one base of everything now, instead of when enough has changed.

        Raises:
            StoreError: It cannot be written; the store is as it was.
        """
        self._writer.merge()

    def verify(self) -> None:
        """Check every thumbnail; opening has checked the rest.

        Raises:
            StoreError: One is damaged; the message names its item.
        """
        for entry in self._side.view().after_id(None):
            try:
                self._with_thumbnail(entry)
            except StoreError as error:
                raise StoreError(f"item {entry.id!r}: {error}") from error

    def close(self) -> None:
        """Implement ``Store.close``."""
        side, self._opened = self._opened, None
        if side is not None:
            side.close()

    @property
    def _side(self) -> Reader | Writer:
        if self._opened is None:
            raise StoreError(f"{self._folder} was closed")
        return self._opened

    @property
    def _writer(self) -> Writer:
        if not isinstance(self._side, Writer):
            raise StoreError(f"{self._folder} was opened for reading only")
        return self._side

    def _with_thumbnail(self, entry: Entry) -> Item:
        picture = None if entry.picture is None else self._pictures.read(entry.picture)
        return entry.item(thumbnail=picture)


def _create(folder: Path, *, dim: int, model: Mapping[str, Any], index: str) -> None:
    with whole_folder(folder) as temporary:
        name, digest = merging.write_empty_base(temporary, dim=dim, index=index, model=model)
        LogWriter(log_path(temporary, 1), end=0).close()
        head = Head(
            commit=0,
            base=name,
            manifest_sha256=digest,
            base_sequence=0,
            base_chain=EMPTY_CHAIN,
            log=1,
            sequence=0,
            chain=EMPTY_CHAIN,
        )
        write_bytes(temporary / heads.NAME, first_slots(head))


def _advice(folder: Path) -> str:
    name = snapshots.last_good(folder)
    return "" if name is None else f"; the last good snapshot is {name!r}"
