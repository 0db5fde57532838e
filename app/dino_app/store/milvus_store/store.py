"""A store in Milvus: Milvus Lite in one file, or a server or cluster, through the same calls.

Ids, vectors and metadata are one collection, thumbnails another. Milvus applies one request whole,
but an upsert of more than ``CALL_BYTES``, and the thumbnails beside the rows, take several: a stop
in between may leave the first part of an upsert that was never acknowledged. Reads are strongly
consistent: they see all that was acknowledged before they began.
"""

import itertools
import os
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from dino_app.errors import StoreError
from dino_app.store.filters import Filter, matches
from dino_app.store.interface import Found, Hit, Included, Item, SearchParams, StoreInfo
from dino_app.store.item_checks import checked_items, checked_name, checked_queries, is_id
from dino_app.store.milvus_store.collections import (
    AT_ONCE,
    INDEXES,
    Collections,
    in_parts,
)
from dino_app.store.milvus_store.connection import Connection, Place, parsed_place
from dino_app.store.milvus_store.filters import ALWAYS, expression, one_of
from dino_app.store.milvus_store.rows import item_of, picture_of, picture_row, row_of
from dino_app.store.milvus_store.searching import Searching, rank

_VERSION = "\tversion"  # no item can have this id


class MilvusStore:
    """A ``Store`` in Milvus.

    Milvus Lite lets one process at a time open its file, to read as well; in that process any
    number of stores may share it. Snapshots are copies: they take the time and room of all rows.
    """

    def __init__(self, connection: Connection, collections: Collections) -> None:
        """Initialize the object; called by ``create`` and ``open``."""
        self._connection = connection
        self._collections = collections
        made = collections.made_with()
        collections.load()
        self._dim, self._model, self._index = made.dim, made.model, made.index

    @classmethod
    def create(
        cls,
        location: str,
        *,
        dim: int,
        model: Mapping[str, Any],
        index: str = "auto",
        published: bool = True,
    ) -> "MilvusStore":
        """A new, empty store at ``FILE.db/COLLECTION`` or ``http://HOST:PORT/COLLECTION``.

        The index "flat" compares with every vector, "hnsw" searches a graph, "auto" is "flat" in
        Milvus Lite and what a server chooses otherwise. Unless ``published``, the store gets its
        name by ``publish``, and goes on from a like one that a stop left without a name.

        Raises:
            ValueError: No such index, or no such width.
            StoreError: Something has that name already, or it cannot be written.
            MissingExtraError: pymilvus is not installed.
        """
        place = parsed_place(location)
        if dim < 1:
            raise ValueError(f"vectors need a width of at least 1, got {dim}")
        if index not in INDEXES:
            raise ValueError(f"expected an index of Milvus, one of {[*INDEXES]}, got {index!r}")
        new = {"dim": dim, "model": model, "index": place.kind(index)}
        return cls._connected(place, new, published=published)

    @classmethod
    def open(cls, location: str) -> "MilvusStore":
        """An existing store, for reading and writing.

        Raises:
            StoreError: There is none, or it cannot be reached.
            StoreLockedError: Another process has the file of Milvus Lite open.
            MissingExtraError: pymilvus is not installed.
        """
        return cls._connected(parsed_place(location), None)

    @classmethod
    def exists(cls, location: str) -> bool:
        """Tell if something has that name.

        Raises:
            StoreError: No server answers there.
        """
        place = parsed_place(location)
        if place.is_lite and not os.path.isdir(place.uri):
            return False
        with closing(Connection(place)) as connection:
            return Collections(connection).exist()

    @classmethod
    def _connected(
        cls, place: Place, new: Mapping[str, Any] | None, *, published: bool = True
    ) -> "MilvusStore":
        if new is None and place.is_lite and not os.path.isdir(place.uri):
            raise _missing(place)
        connection = Connection(place)
        try:
            collections = Collections(connection)
            is_there = collections.exist()
            if new is None and not is_there:
                raise _missing(place)
            if new is not None:
                if is_there:
                    raise StoreError(f"{str(place)!r} is there already")
                collections.create(**new, empty=published)
                if published:
                    collections.publish()
            return cls(connection, collections)
        except BaseException:
            connection.close()
            raise

    def publish(self) -> None:
        """Give a new store its name: from now on it can be opened."""
        self._collections.publish()

    def info(self) -> StoreInfo:
        """Return facts about the store; recall is not measured, even if a server approximates."""
        return StoreInfo(
            backend="milvus",
            dim=self._dim,
            rows=self.count(),
            deleted=0,
            version=self._version(),
            index=str(INDEXES[self._index]["index_type"]),
            wanted_index=self._index,
            recall_at_10=None,
            model=dict(self._model),
        )

    def upsert(self, items: Sequence[Item]) -> str:
        """Implement ``Store.upsert``, but see above: whole up to ``CALL_BYTES``."""
        checked = checked_items(items, dim=self._dim)
        rows = [row_of(item) for item in checked]
        if not rows:
            return self._version()
        pictures = [
            picture_row(item.id, item.thumbnail) for item in checked if item.thumbnail is not None
        ]
        with self._connection.writing:
            self._collections.remove(self._collections.pictures, [item.id for item in checked])
            self._collections.upsert(self._collections.pictures, pictures)
            self._collections.upsert(self._collections.rows, rows)
            return self._changed()

    def delete(self, ids: Collection[str]) -> list[str]:
        """Implement ``Store.delete``."""
        wanted = list(dict.fromkeys(id for id in ids if is_id(id)))
        with self._connection.writing:
            there = self._collections.remove(self._collections.rows, wanted)
            if there:
                self._collections.remove(self._collections.pictures, there)
                self._changed()
        return there

    def get(self, ids: Sequence[str]) -> list[Item | None]:
        """Implement ``Store.get``."""
        wanted = [id for id in ids if is_id(id)]
        rows = self._collections.rows_of(self._collections.rows, wanted, ["*"])
        return [item_of(rows[id]) if id in rows else None for id in ids]

    def thumbnail(self, id: str) -> bytes | None:
        """Implement ``Store.thumbnail``."""
        return self._thumbnails([id]).get(id) if is_id(id) else None

    def search(
        self,
        vectors: Float[np.ndarray, "queries dim"],
        *,
        k: int,
        filter: Filter | None = None,
        params: SearchParams | None = None,
        include: Collection[Included] = (),
    ) -> Found:
        """Implement ``Store.search``; of a version that is at least as new as the one it names.

        An index that is not "flat" cannot be told to compare every vector; ``exact`` is false.
        """
        queries = checked_queries(vectors, dim=self._dim, k=k)
        version = self._version()
        search = Searching(self._connection, params, include)
        hits: list[list[Hit]] = [[] for _ in queries]
        for where in self._expressions(filter):
            for place, query in enumerate(queries):
                found = search.hits(query, where, k=k)
                hits[place] = sorted([*hits[place], *found], key=rank)[:k]
        return Found(hits, version, self._index == "flat")

    def count(self, filter: Filter | None = None) -> int:
        """Implement ``Store.count``."""
        total, rows = 0, self._collections.rows
        for where in self._expressions(filter):
            (row,) = self._connection.call("query", rows, filter=where, output_fields=["count(*)"])
            total += int(row["count(*)"])
        return total

    def page(
        self, *, after: str | None = None, limit: int = 100, filter: Filter | None = None
    ) -> list[Item]:
        """Implement ``Store.page``."""
        if limit < 1:
            raise ValueError(f"a page holds at least 1 item, got {limit}")
        found: list[Item] = []
        where = "" if filter is None else expression(filter)
        for item in self._walk(after or "", where or ALWAYS, at_once=min(limit, AT_ONCE)):
            if where is not None or (filter is not None and matches(filter, item.metadata)):
                found.append(item)
            if len(found) == limit:
                break
        return found

    def items(self, *, batch: int = 1000) -> Iterator[list[Item]]:
        """Yield all items with thumbnails; those written during the call come as old or new."""
        walk = self._walk("", ALWAYS, at_once=min(batch, AT_ONCE))
        while part := list(itertools.islice(walk, batch)):
            pictures = self._thumbnails([item.id for item in part])
            yield [replace(item, thumbnail=pictures.get(item.id)) for item in part]

    def snapshot(self, name: str) -> None:
        """Implement ``Store.snapshot``; copies every row."""
        checked_name(name)
        with self._connection.writing:
            if name in self.snapshots():
                raise ValueError(f"there is a snapshot {name!r} already")
            self._collections.keep(name)

    def snapshots(self) -> list[str]:
        """Implement ``Store.snapshots``."""
        return self._collections.snapshots()

    def restore(self, name: str) -> None:
        """Implement ``Store.restore``; copies every row, then changes over at once."""
        with self._connection.writing:
            if name not in self.snapshots():
                raise StoreError(f"{str(self._connection.place)!r} has no snapshot {name!r}")
            self._collections.bring_back(name)
            self._collections.load()
            self._changed()

    def close(self) -> None:
        """Implement ``Store.close``; Milvus Lite frees its file for other processes."""
        self._connection.close()

    def _expressions(self, condition: Filter | None) -> list[str]:
        """Expressions that together find what a filter matches, each item once."""
        if condition is None:
            return [""]
        said = expression(condition)
        if said is not None:
            return [said]
        walk = self._walk("", ALWAYS, at_once=AT_ONCE)
        ids = [item.id for item in walk if matches(condition, item.metadata)]
        return [one_of(part) for part in in_parts(ids)]

    def _walk(self, after: str, where: str, *, at_once: int) -> Iterator[Item]:
        pages = self._collections.pages(
            self._collections.rows, fields=["*"], where=where, limit=at_once, after=after
        )
        for rows in pages:
            yield from map(item_of, rows)

    def _thumbnails(self, ids: Sequence[str]) -> dict[str, bytes]:
        rows = self._collections.rows_of(self._collections.pictures, ids, ["parts"])
        return {id: picture_of(row) for id, row in rows.items()}

    def _version(self) -> str:
        rows = self._collections.rows_of(self._collections.pictures, [_VERSION], ["parts"])
        return picture_of(rows[_VERSION]).decode() if rows else "new"

    def _changed(self) -> str:
        """Note a new version after a write, and make all of it last."""
        version = uuid.uuid4().hex
        row = picture_row(_VERSION, version.encode())
        self._collections.upsert(self._collections.pictures, [row])
        self._collections.flush()
        return version


def _missing(place: Place) -> StoreError:
    return StoreError(f"no index at {str(place)!r}; make it with dino-index build")
