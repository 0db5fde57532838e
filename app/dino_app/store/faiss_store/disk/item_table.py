"""Ids, metadata and thumbnails' places of the rows of a base, in an SQLite file.

The file never changes once it is written, so it is opened without locks, by any number of
connections. Rows are in the order of their ids, so that equal scores come in that order too.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from dino_app.errors import StoreError

NAME = "items.sqlite"
_SCHEMA = """
CREATE TABLE items (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    metadata TEXT NOT NULL,
    picture TEXT
)
"""
_MERGE = """
INSERT INTO items SELECT row_number() OVER (ORDER BY id) - 1, id, metadata, picture FROM merged
"""
_IDS_AT_ONCE = 500


class StoredItem(NamedTuple):
    """A row without its vector."""

    row: int
    id: str
    metadata: dict[str, Any]
    picture: str | None


class NewItem(NamedTuple):
    """An item that a merge adds; its metadata as JSON."""

    source: int
    id: str
    metadata: str
    picture: str | None


class ItemTable:
    """Reads the items of one base from any thread."""

    def __init__(self, path: Path) -> None:
        self._address = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        self._idle: LifoQueue[sqlite3.Connection] = LifoQueue()
        with self._connection() as connection:
            connection.execute("SELECT count(*) FROM items WHERE row < 0")

    def of_rows(self, rows: Sequence[int]) -> dict[int, StoredItem]:
        """Items by row."""
        return {item.row: item for item in self._some("row", rows)}

    def of_ids(self, ids: Sequence[str]) -> dict[str, StoredItem]:
        """Return those of the items that are there, by id."""
        return {item.id: item for item in self._some("id", ids)}

    def rows_of_ids(self, ids: Sequence[str]) -> Int64[np.ndarray, " found"]:
        """Rows of those that are there."""
        found: list[int] = []
        with self._connection() as connection:
            for part in _parts(ids):
                query = f"SELECT row FROM items WHERE id IN ({_marks(part)})"
                found += [row for (row,) in connection.execute(query, part)]
        return np.array(found, np.int64)

    def last_row_up_to(self, id: str) -> int:
        """The last row whose id is this one or comes before it, -1 if there is none."""
        query = "SELECT row FROM items WHERE id <= ? ORDER BY id DESC LIMIT 1"
        with self._connection() as connection:
            found = connection.execute(query, (id,)).fetchone()
        return -1 if found is None else int(found[0])

    def all_metadata(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Row and metadata of every item."""
        with self._connection() as connection:
            for row, text in connection.execute("SELECT row, metadata FROM items"):
                yield row, _metadata(row, text)

    def close(self) -> None:
        """Close connections that are not in use; those in use close with their last user."""
        while True:
            try:
                self._idle.get_nowait().close()
            except Empty:
                return

    def _some(self, column: str, values: Sequence[Any]) -> Iterator[StoredItem]:
        with self._connection() as connection:
            for part in _parts(values):
                query = f"SELECT * FROM items WHERE {column} IN ({_marks(part)})"
                yield from map(_item, connection.execute(query, part))

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection that no other thread uses at the same time."""
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = sqlite3.connect(self._address, uri=True, check_same_thread=False)
        try:
            yield connection
        except sqlite3.Error as error:
            raise StoreError(f"{NAME} cannot be read: {error}") from error
        finally:
            self._idle.put(connection)


def write_items(
    path: Path, *, old: Path | None, dead: Sequence[int], new: Iterator[NewItem]
) -> Int64[np.ndarray, " rows"]:
    """Write the items of the next base.

    Returns:
        For each row where it comes from: a row of the old base, or the ``source`` of a new item.

    Raises:
        OSError: It cannot be written, or the old one cannot be read.
    """
    try:
        return _write_items(path, old, dead, new)
    except sqlite3.Error as error:
        raise OSError(f"{path.name} cannot be written: {error}") from error


def _write_items(
    path: Path, old: Path | None, dead: Sequence[int], new: Iterator[NewItem]
) -> Int64[np.ndarray, " rows"]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=rwc", uri=True)) as table:
        table.execute("PRAGMA journal_mode = OFF")
        table.execute("PRAGMA synchronous = OFF")  # the whole file is synced when it is finished
        table.execute(_SCHEMA)
        table.execute("CREATE TEMP TABLE merged (id TEXT, metadata TEXT, picture TEXT, source)")
        if old is not None:
            _take_over(table, old, dead)
        rows = ((item.id, item.metadata, item.picture, item.source) for item in new)
        table.executemany("INSERT INTO merged VALUES (?, ?, ?, ?)", rows)
        table.execute(_MERGE)
        table.execute("CREATE UNIQUE INDEX ids ON items (id)")
        found = table.execute("SELECT source FROM merged ORDER BY id").fetchall()
        table.commit()
    return np.array(found, np.int64).reshape(-1)


def _take_over(table: sqlite3.Connection, old: Path, dead: Sequence[int]) -> None:
    table.execute("ATTACH ? AS old", (f"{old.resolve().as_uri()}?mode=ro&immutable=1",))
    table.execute("CREATE TEMP TABLE dead (row INTEGER PRIMARY KEY)")
    table.executemany("INSERT INTO dead VALUES (?)", ((int(row),) for row in dead))
    table.execute(
        "INSERT INTO merged SELECT id, metadata, picture, row FROM old.items "
        "WHERE row NOT IN (SELECT row FROM dead)"
    )
    table.commit()
    table.execute("DETACH old")


def _item(row: tuple[Any, Any, Any, Any]) -> StoredItem:
    number, id, text, picture = row
    if not (isinstance(id, str) and isinstance(picture, str | None)):
        raise StoreError(f"{NAME} has a row {number} that no index writes")
    return StoredItem(number, id, _metadata(number, text), picture)


def _metadata(row: Any, text: Any) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise StoreError(f"{NAME} has metadata in row {row} that no index writes")
    return metadata


def _parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _IDS_AT_ONCE):
        yield list(values[start : start + _IDS_AT_ONCE])


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
