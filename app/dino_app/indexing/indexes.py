"""Indexes as wholes: one to be filled, items deleted by filter, what is near an item."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from dino_app.errors import StoreError
from dino_app.indexing.building import prune
from dino_app.store.filters import Filter
from dino_app.store.interface import MAX_K, Found, Included, SearchParams, Store, others
from dino_app.store.opening import MILVUS, create_store, kind_at, open_store
from dino_infer.files import hold_output, make_folder, remove_leftovers
from dino_infer.images.read import ImageFailure, write_failures

AT_ONCE = 1000


class IndexTarget:
    """An index that is to be filled: opened at once if it exists, else made with its first item.

    Args:
        location: Location as for ``open_store``.
        index: Kind of search, as its store takes it; None is "auto" for a new one.

    Raises:
        StoreError: It is damaged, locked, of another ``index``, or something else lies there.
    """

    def __init__(self, location: str, *, index: str | None = None) -> None:
        self.location = location
        self._index = index or "auto"
        with ExitStack() as undo:
            if not exists(location):
                undo.enter_context(hold_place(location))
            self.known = open_store(location, writable=True) if exists(location) else None
            """The store as it is; None while there is none."""
            self.model: Mapping[str, Any] | None = None
            """Description of the model that made its vectors."""
            if self.known is not None:
                undo.callback(self.known.close)
                info = self.known.info()
                if index is not None and kind_at(location, index) != info.wanted_index:
                    raise StoreError(
                        f"{location!r} was made with `index={info.wanted_index!r}`, got {index!r}; "
                        "leave `index` out, or make another one with dino-index copy"
                    )
                self.model = info.model
            self._held = undo.pop_all()

    def store(self, *, dim: int, model: Mapping[str, Any]) -> Store:
        """The store, made if need be."""
        if self.known is None:
            self.known = new_index(self.location, dim=dim, model=model, index=self._index)
            self._held.callback(self.known.close)
        return self.known

    def prune(self, ids: Collection[str]) -> int:
        """Take out all other items; returns how many there were."""
        return 0 if self.known is None else prune(self.known, ids)

    def settle(self) -> None:
        """Merge what was written into one base with its index."""
        from dino_app.store.faiss_store import FaissStore

        if isinstance(self.known, FaissStore):
            self.known.merge()

    def close(self) -> None:
        """Free its files."""
        self._held.close()


def exists(location: str) -> bool:
    """Tell if something lies where an index would be."""
    if location.startswith(MILVUS):
        from dino_app.store.milvus_store.store import MilvusStore

        return MilvusStore.exists(location.removeprefix(MILVUS))
    folder = Path(location)
    return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))


def new_index(location: str, *, dim: int, model: Mapping[str, Any], index: str = "auto") -> Store:
    """Call ``create_store`` for commands.

    Raises:
        StoreError: There is no such kind of index, something is there, or nothing can be written.
    """
    with told_kind(index):
        return create_store(location, dim=dim, model=model, index=index)


def near_item(
    store: Store,
    id: str,
    *,
    k: int,
    filter: Filter | None = None,
    params: SearchParams | None = None,
    include: Collection[Included] = (),
) -> Found | None:
    """The items nearest to an item, itself left out; None where there is no such item."""
    (item,) = store.get([id])
    if item is None:
        return None
    found = store.search(
        item.vector[None], k=min(k + 1, MAX_K), filter=filter, params=params, include=include
    )
    (hits,) = found.hits
    return found._replace(hits=[others(hits, id, k=k)])


def check_exact(found: Found, params: SearchParams) -> None:
    """Refuse an answer that is not what an exact search was asked for.

    Raises:
        StoreError: The store searches approximately whatever it is asked.
    """
    if params.exact and not found.exact:
        raise StoreError("this index cannot compare with every vector; leave `exact` out")


def delete_matching(store: Store, condition: Filter) -> int:
    """Delete all items that match; returns how many there were."""
    gone = 0
    while page := store.page(limit=AT_ONCE, filter=condition):
        gone += len(store.delete([item.id for item in page]))
    return gone


def restore_index(location: str, name: str) -> Store:
    """Bring an index back into the state of a snapshot, a damaged folder too; return it open.

    Raises:
        StoreError: No such snapshot, or it is damaged.
    """
    if not location.startswith(MILVUS):
        from dino_app.store.faiss_store import FaissStore

        return FaissStore.recover(location, name)
    store = open_store(location, writable=True)
    try:
        store.restore(name)
    except BaseException:
        store.close()
        raise
    return store


def failed_path(location: str) -> Path:
    """Path of the list of images that could not be read: beside the index."""
    if location.startswith(MILVUS):
        uri, _, collection = location.removeprefix(MILVUS).rpartition("/")
        folder = Path() if "://" in uri else Path(uri).parent
        return folder / f"{collection}.failed.jsonl"
    folder = Path(location)
    return folder.with_name(folder.name + ".failed.jsonl")


def write_failed(location: str, failures: Iterable[ImageFailure]) -> None:
    """List what failed; without any, remove an older list."""
    failures = list(failures)
    if failures:
        write_failures(failed_path(location), failures)
    else:
        failed_path(location).unlink(missing_ok=True)


@contextmanager
def told_kind(index: str) -> Iterator[None]:
    """Say which kind of index is none."""
    try:
        yield
    except ValueError as error:
        raise StoreError(f"`index={index!r}`: {error}") from error


@contextmanager
def hold_place(location: str) -> Iterator[None]:
    """Be the only process that makes an index there, where no lock of an index can say so yet."""
    if location.startswith(MILVUS):
        yield
        return
    folder = Path(os.path.abspath(location))
    _check_writable(folder)
    with ExitStack() as held:
        try:
            make_folder(folder.parent)
            held.enter_context(hold_output(folder, beside=True))
            remove_leftovers(folder)
        except OSError as error:
            raise StoreError(f"cannot make an index at {str(folder)!r}: {error}") from error
        yield


def _check_writable(folder: Path) -> None:
    """Refuse a place that cannot be written to, before hours of work."""
    parent = folder.parent
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK):
        raise StoreError(f"cannot make an index at {str(folder)!r}: {str(parent)!r} is read-only")
