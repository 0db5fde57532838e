"""The Milvus collections of one store: made, named, copied and dropped.

``photos``                   an alias of the rows in use
``photos__pictures``         an alias of the thumbnails that belong to them
``photos__1``                rows: ``id``, ``vector``, and metadata as dynamic fields
``photos__1__pictures``      thumbnails as base64 in parts, apart so that searches stay light
``photos__snapshot_6a756e``  a snapshot; the name's bytes in hexadecimal. Also with ``__pictures``

Aliases change at once for every reader, so a restored snapshot appears whole.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dino_app.errors import StoreError
from dino_app.store.interface import MAX_ID_BYTES
from dino_app.store.milvus_store.connection import Connection
from dino_app.store.milvus_store.filters import ALWAYS, one_of, quoted

MODEL = "dino.model"  # property of the rows: JSON
DIM = "dino.dim"
PICTURES = "__pictures"
INDEX = "dino.index"
MAX_TEXT_BYTES = 65_535  # what Milvus allows a VARCHAR
MAX_PARTS = 32
NO_DIM = 2  # Milvus wants a vector in every collection; of pictures it is zero
AT_ONCE = 1000  # ids in one request, and rows in one answer
CALL_BYTES = 8 << 20  # of rows in one request; servers take 64 MiB
_CODE = re.compile(r"(?:2d|2e|3\d|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9a])+")  # see checked_name
INDEXES: dict[str, dict[str, Any]] = {
    "flat": {"index_type": "FLAT"},
    "auto": {"index_type": "AUTOINDEX"},
    "hnsw": {"index_type": "HNSW", "params": {"M": 32, "efConstruction": 200}},
}


@dataclass(frozen=True)
class Made:
    """Properties of a store, as it was made."""

    dim: int
    model: dict[str, Any]
    index: str
    """One of ``INDEXES``."""


class Collections:
    """All collections that belong to one alias."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.rows = connection.place.collection
        self.pictures = self.rows + PICTURES

    def exist(self) -> bool:
        """Tell if something has the name of the store."""
        return bool(self._connection.call("has_collection", self.rows))

    def create(self, *, dim: int, model: Mapping[str, Any], index: str, empty: bool) -> None:
        """Make a store, which has no name before ``publish``.

        Unless ``empty``, a like one that a stop left without a name is taken as it is.
        """
        properties = {MODEL: json.dumps(dict(model)), DIM: str(dim), INDEX: index}
        if self._call("has_collection", self.pictures):  # a stop left it behind
            self._call("drop_alias", self.pictures)
        self.rows = self._numbered(1)
        self.pictures = self.rows + PICTURES
        if empty or not self._is_made(self.rows, properties):
            self._make(self.rows, properties)

    def publish(self) -> None:
        """Give a new store its name, which appears last."""
        made, name = self.rows, self._connection.place.collection
        for suffix in (PICTURES, ""):
            self._call("create_alias", collection_name=made + suffix, alias=name + suffix)
        self.rows, self.pictures = name, name + PICTURES

    def load(self) -> None:
        """Make rows and thumbnails searchable."""
        for name in (self.rows, self.pictures):
            self._call("load_collection", name)

    def properties(self) -> dict[str, str]:
        """Return the properties given when the store was made.

        Raises:
            StoreError: The collection is none of ours, or damaged.
        """
        found: dict[str, str] = self._call("describe_collection", self.rows)["properties"]
        if not _are_ours(found):
            raise StoreError(
                f"{str(self._connection.place)!r} is a collection that dino-index did not make, or "
                "its properties are damaged; choose another name"
            )
        return found

    def made_with(self) -> Made:
        """Width, model and kind of index; raises as ``properties``."""
        found = self.properties()
        return Made(int(found[DIM]), json.loads(found[MODEL]), found[INDEX])

    def flush(self) -> None:
        """Put what was written into segments: Milvus Lite scans what is not, and may lose it.

        A server keeps a log of its own, and flushing it after each write would slow it down.
        """
        if self._connection.place.is_lite:
            for name in (self.rows, self.pictures):
                self._call("flush", name)

    def pages(
        self, name: str, *, fields: list[str], where: str = ALWAYS, limit: int, after: str = ""
    ) -> Iterator[list[dict[str, Any]]]:
        """Rows of a collection in the order of their ids, from the first one after an id.

        Each page is as new as possible: rows that others write during the call may be old or new.
        """
        while True:
            rows = self._call(
                "query",
                name,
                filter=f"({where}) and id > {quoted(after)}" if after else where,
                output_fields=["id", *fields],
                limit=limit,
                iterator="True",  # makes it sort by id
                reduce_stop_for_best="True",
            )
            if rows:
                yield rows
            if len(rows) < limit:
                return
            after = rows[-1]["id"]

    def rows_of(
        self, name: str, ids: Sequence[str], fields: list[str]
    ) -> dict[str, dict[str, Any]]:
        """Rows of a collection by their ids; none where there is none."""
        found: dict[str, dict[str, Any]] = {}
        for part in in_parts(ids):
            rows = self._call("query", name, filter=one_of(part), output_fields=["id", *fields])
            found |= {row["id"]: row for row in rows}
        return found

    def remove(self, name: str, ids: Sequence[str]) -> list[str]:
        """Delete rows of a collection; returns the ids that were there, in order."""
        there = self.rows_of(name, ids, [])
        found = [id for id in ids if id in there]
        for part in in_parts(found):
            self._call("delete", name, filter=one_of(part))
        return found

    def upsert(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows, whole, in requests of a size that servers take."""
        # In Milvus Lite an insert replaces the row of that id, and an upsert keeps those of its
        # fields that the new row lacks. In a server an insert would add a second row.
        method = "insert" if self._connection.place.is_lite else "upsert"
        for part in _requests(rows):
            self._call(method, name, part)

    def snapshots(self) -> list[str]:
        """Names of the snapshots that are complete, sorted."""
        prefix = self._snapshot("")
        codes = [name.removeprefix(prefix) for name in self._names() if name.startswith(prefix)]
        return sorted(bytes.fromhex(code).decode() for code in codes if _CODE.fullmatch(code))

    def keep(self, snapshot: str) -> None:
        """Copy the rows in use under the name of a snapshot, which appears last."""
        copy = f"{self.rows}__copy"
        self._drop(self._snapshot(snapshot))  # the part of it that a stop left behind
        self._copy(self.rows, copy)
        for suffix in (PICTURES, ""):
            self._call("rename_collection", copy + suffix, self._snapshot(snapshot) + suffix)
        for suffix in (PICTURES, ""):
            self._call("release_collection", self._snapshot(snapshot) + suffix)

    def bring_back(self, snapshot: str) -> None:
        """Copy a snapshot into new collections, and use those from now on."""
        source = self._snapshot(snapshot)
        for suffix in (PICTURES, ""):
            self._call("load_collection", source + suffix)
        # A stop between the two aliases leaves them at different numbers.
        before = {self._number(self.rows), self._number(self.pictures)}
        after = self._numbered(1 + max(before))
        self._copy(source, after)
        for suffix in (PICTURES, ""):
            self._call("alter_alias", after + suffix, self.rows + suffix)
            self._call("release_collection", source + suffix)
        for number in before:
            self._drop(self._numbered(number))

    def _is_made(self, name: str, properties: Mapping[str, str]) -> bool:
        """Tell if all of ``_make`` was done, for the same properties."""
        if not all(self._call("has_collection", name + suffix) for suffix in (PICTURES, "")):
            return False
        found: dict[str, str] = self._call("describe_collection", name)["properties"]
        alike = properties.items() <= found.items()
        return alike and bool(self._call("list_indexes", name))  # made last

    def _make(self, name: str, properties: Mapping[str, str]) -> None:
        """Empty collections for rows and thumbnails, instead of any that a stop left behind."""
        from pymilvus import DataType, MilvusClient

        self._drop(name)
        rows = MilvusClient.create_schema(enable_dynamic_field=True)
        pictures = MilvusClient.create_schema()
        for schema, dim in ((rows, int(properties[DIM])), (pictures, NO_DIM)):
            schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        text: dict[str, Any] = {"element_type": DataType.VARCHAR, "max_length": MAX_TEXT_BYTES}
        pictures.add_field(
            "parts", DataType.ARRAY, max_capacity=MAX_PARTS, mmap_enabled=True, **text
        )
        made = {PICTURES: (pictures, "flat"), "": (rows, properties[INDEX])}
        for suffix, (schema, index) in made.items():
            indexes = MilvusClient.prepare_index_params()
            indexes.add_index("vector", metric_type="IP", **INDEXES[index])
            self._call(
                "create_collection",
                name + suffix,
                schema=schema,
                properties=dict(properties),
                consistency_level="Strong",
            )
            # While there are no rows there is nothing to wait for, which takes half a second.
            self._call("create_index", name + suffix, indexes, sync=False)
            self._call("load_collection", name + suffix)

    def _copy(self, source: str, target: str) -> None:
        self._make(target, self.properties())
        for suffix, fields in ((PICTURES, ["vector", "parts"]), ("", ["*"])):
            for rows in self.pages(source + suffix, fields=fields, limit=AT_ONCE):
                self.upsert(target + suffix, rows)
            if self._connection.place.is_lite:
                self._call("flush", target + suffix)

    def _drop(self, name: str) -> None:
        for collection in (name, name + PICTURES):
            if self._call("has_collection", collection):
                self._call("drop_collection", collection)

    def _names(self) -> list[str]:
        names: list[str] = self._call("list_collections")
        return names

    def _number(self, alias: str) -> int:
        name: str = self._call("describe_alias", alias)["collection_name"]
        return int(name.removesuffix(PICTURES).rpartition("__")[2])

    def _numbered(self, number: int) -> str:
        return f"{self._connection.place.collection}__{number}"

    def _snapshot(self, name: str) -> str:
        return f"{self.rows}__snapshot_{name.encode().hex()}"

    def _call(self, method: str, /, *args: Any, **options: Any) -> Any:
        return self._connection.call(method, *args, **options)


def _are_ours(properties: Mapping[str, str]) -> bool:
    try:
        dim, model = int(properties[DIM]), json.loads(properties[MODEL])
        return dim >= 1 and isinstance(model, dict) and properties[INDEX] in INDEXES
    except (KeyError, ValueError, RecursionError):
        return False


def in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Ids, as many at once as go into one request."""
    for start in range(0, len(ids), AT_ONCE):
        yield ids[start : start + AT_ONCE]


def _requests(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        row_size = 4 * len(row["vector"]) + len(str({**row, "vector": None}))
        if part and size + row_size > CALL_BYTES:
            yield part
            part, size = [], 0
        part.append(row)
        size += row_size
    if part:
        yield part
