"""Copies of indexes, into any kind of store; a stopped one is gone on from."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dino_app.errors import StoreError
from dino_app.indexing.building import prune
from dino_app.indexing.indexes import exists, hold_place, new_index, told_kind
from dino_app.store.faiss_store.disk.manifest import sync
from dino_app.store.interface import Item, Store
from dino_app.store.opening import MILVUS, open_store
from dino_app.store.scores import ROUNDING
from dino_infer.files import remove_leftovers

AT_ONCE = 1000

logger = logging.getLogger(__name__)


class Copied(NamedTuple):
    """Outcome of a copy."""

    items: int
    """Number of items in the copy."""
    before: int
    """Number of them that an earlier copy, which was stopped, had brought."""


def copy_index(source: Store, target: str, *, index: str = "auto") -> Copied:
    """Make another index of all items of a store.

    It appears when it is complete. What a stop, or an error, leaves behind is hidden, and the next
    copy to that place goes on from it.

    Raises:
        StoreError: Something is there already, or it cannot be written.
        OutputInUseError: Another process makes an index there.
    """
    found = source.info()
    with hold_place(target):
        if exists(target):
            raise StoreError(f"{target!r} is there already; delete it or choose another place")
        with _unfinished_index(target, dim=found.dim, model=found.model, index=index) as made:
            return copy_items(source, made)


def copy_items(source: Store, target: Store) -> Copied:
    """Let another store hold the items of a store, with thumbnails, and no others."""
    from dino_infer.progress import Progress

    ids: list[str] = []
    before = 0
    there = target.count()
    with Progress("copy", total=source.info().rows) as progress:
        for part in source.items(batch=AT_ONCE):
            ids += [item.id for item in part]
            known = target.get([item.id for item in part]) if there else [None] * len(part)
            new = [item for item, old in zip(part, known, strict=True) if not _same(item, old)]
            target.upsert(new)
            before += len(part) - len(new)
            progress.advance(len(part))
    if before < there:
        prune(target, ids)
    return Copied(items=len(ids), before=before)


def _same(item: Item, other: Item | None) -> bool:
    return (
        other is not None
        and item.metadata == other.metadata
        and np.allclose(item.vector, other.vector, rtol=0, atol=ROUNDING)
    )


@contextmanager
def _unfinished_index(
    target: str, *, dim: int, model: Mapping[str, Any], index: str
) -> Iterator[Store]:
    """A new index, or a like one that a stop left; it gets its name when the block has filled it.

    In a folder it is hidden beside its place until then, in Milvus a collection without an alias.
    """
    if target.startswith(MILVUS):
        from dino_app.store.milvus_store.store import MilvusStore

        place = target.removeprefix(MILVUS)
        with told_kind(index):
            store = MilvusStore.create(place, dim=dim, model=model, index=index, published=False)
        with closing(store):
            yield store
            store.publish()
        return
    folder = Path(os.path.abspath(target))
    hidden = folder.with_name(f".{folder.name}.dino-copy")
    remove_leftovers(hidden)
    with closing(_like_index(hidden, dim=dim, model=model, index=index)) as made:
        yield made
    hidden.replace(folder)
    sync(folder.parent)


def _like_index(folder: Path, *, dim: int, model: Mapping[str, Any], index: str) -> Store:
    """The unfinished index that is there, or a new one where it is damaged or of another kind."""
    if folder.exists():
        try:
            store = open_store(folder, writable=True)
            info = store.info()
            if (info.dim, info.model, info.wanted_index) == (dim, dict(model), index):
                return store
            store.close()
        except StoreError as error:
            logger.warning("beginning again: %s", error)
        shutil.rmtree(folder)
    return new_index(str(folder), dim=dim, model=model, index=index)
