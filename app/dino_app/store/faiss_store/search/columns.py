"""Rows of a base that match a filter, by sorted values of each field that filters ask for.

A base never changes, so a field is sorted once, when a filter first names it.
"""

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from functools import reduce
from operator import and_, or_
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from dino_app.store.faiss_store.disk.item_table import ItemTable
from dino_app.store.faiss_store.search import row_sets
from dino_app.store.faiss_store.search.row_sets import Bits
from dino_app.store.filters import And, Compare, Exists, Filter, In, Not, Or, kind_of

FIELDS_KEPT = 16
FILTERS_KEPT = 64

Rows = Int64[np.ndarray, " _"]


class _Sorted(NamedTuple):
    """Values of one kind in order, and the row of each."""

    values: list[Any]
    rows: Rows


_NOTHING = _Sorted([], np.empty(0, np.int64))
_Column = dict[str, _Sorted]


class Columns:
    """Answers filters for one base, from any thread."""

    def __init__(self, items: ItemTable, count: int) -> None:
        self._items = items
        self._count = count
        self._columns: OrderedDict[str, _Column] = OrderedDict()
        self._answers: OrderedDict[str, Bits] = OrderedDict()
        self._names: set[str] | None = None
        self._lock = Lock()

    def matching(self, condition: Filter) -> Bits:
        """Rows that match."""
        key = repr(condition)  # not the filter itself, as 1 == True
        with self._lock:
            if key not in self._answers:
                self._answers[key] = self._answer(condition)
                _drop_oldest(self._answers, FILTERS_KEPT)
            self._answers.move_to_end(key)
            return self._answers[key]

    def _answer(self, condition: Filter) -> Bits:
        match condition:
            case Compare(field, operator, value):
                return self._bits(_compared(self._column(field), operator, value))
            case In(field, values):
                column = self._column(field)
                found = [_compared(column, "$eq", value) for value in values]
                return self._bits(np.concatenate([*found, _NOTHING.rows]))
            case Exists(field, wanted):
                parts = [part.rows for part in self._column(field).values()]
                there = self._bits(np.concatenate([*parts, _NOTHING.rows]))
                return there if wanted else self._opposite(there)
            case And(parts):
                return reduce(and_, map(self._answer, parts), row_sets.all_rows(self._count))
            case Or(parts):
                return reduce(or_, map(self._answer, parts), self._bits(_NOTHING.rows))
            case Not(part):
                return self._opposite(self._answer(part))

    def _bits(self, rows: Rows) -> Bits:
        return row_sets.of_rows(rows, self._count)

    def _opposite(self, chosen: Bits) -> Bits:
        opposite: Bits = row_sets.all_rows(self._count) & ~chosen
        return opposite

    def _column(self, field: str) -> _Column:
        if self._names is not None and field not in self._names:
            return {}  # without a look at every item, whatever names a client makes up
        if field not in self._columns:
            self._columns[field], self._names = _column(self._items, field)
            _drop_oldest(self._columns, FIELDS_KEPT)
        self._columns.move_to_end(field)
        return self._columns[field]


def _column(items: ItemTable, field: str) -> tuple[_Column, set[str]]:
    """The values of a field, and the names of all fields."""
    found: dict[str, list[tuple[Any, int]]] = {}
    names: set[str] = set()
    for row, metadata in items.all_metadata():
        names.update(metadata)
        if field in metadata:
            value = metadata[field]
            found.setdefault(str(kind_of(value)), []).append((value, row))
    column = {}
    for kind, pairs in found.items():
        pairs.sort()
        values, rows = zip(*pairs, strict=True)
        column[kind] = _Sorted(list(values), np.array(rows, np.int64))
    return column, names


def _compared(column: _Column, operator: str, value: Any) -> Rows:
    part = column.get(str(kind_of(value)), _NOTHING)
    left, right = bisect_left(part.values, value), bisect_right(part.values, value)
    if operator == "$ne":
        return np.concatenate([part.rows[:left], part.rows[right:]])
    start, stop = {
        "$eq": (left, right),
        "$lt": (0, left),
        "$lte": (0, right),
        "$gt": (right, None),
        "$gte": (left, None),
    }[operator]
    rows: Rows = part.rows[start:stop]
    return rows


def _drop_oldest(kept: "OrderedDict[Any, Any]", limit: int) -> None:
    while len(kept) > limit:
        kept.popitem(last=False)
