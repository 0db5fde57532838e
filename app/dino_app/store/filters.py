"""Conditions on metadata: written as JSON, checked once, then used by each store in its own way.

    {"label": "cat"}                                  equal
    {"year": {"$gte": 2020, "$lt": 2024}}             $eq $ne $gt $gte $lt $lte, all must hold
    {"label": {"$in": ["cat", "dog"]}}                one of
    {"label": {"$exists": false}}                     has no such field
    {"$or": [{"label": "cat"}, {"$not": {"year": 2020}}]}

Numbers compare with numbers, texts with texts (by code points), truth values are equal or not; a
comparison with a missing field or with a value of another type is false, ``$ne`` included.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import eq, ge, gt, le, lt, ne
from typing import Any

MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_CHOICES = 10_000
MAX_FIELD_BYTES = 256
MAX_INTEGER = 2**63 - 1  # what SQLite and Milvus hold

COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "$eq": eq,
    "$ne": ne,
    "$gt": gt,
    "$gte": ge,
    "$lt": lt,
    "$lte": le,
}
_ORDERS = ("$gt", "$gte", "$lt", "$lte")


@dataclass(frozen=True)
class Compare:
    """A field against a value."""

    field: str
    operator: str
    value: str | int | float | bool


@dataclass(frozen=True)
class In:
    """A field equal to one of several values."""

    field: str
    values: tuple[str | int | float | bool, ...]


@dataclass(frozen=True)
class Exists:
    """A field that is there, or is not."""

    field: str
    wanted: bool


@dataclass(frozen=True)
class And:
    """Conjunction of filters: all must hold; without parts it always does."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True)
class Or:
    """Disjunction of filters: one must hold; without parts it never does."""

    parts: tuple["Filter", ...]


@dataclass(frozen=True)
class Not:
    """Negation of a filter."""

    part: "Filter"


Filter = Compare | In | Exists | And | Or | Not


class FilterError(ValueError):
    """A filter that makes no sense; the message says where and what is allowed."""


def parsed_filter(written: object) -> Filter:
    """A filter from its JSON form.

    Raises:
        FilterError: It is not one, or is larger than the limits of this module.
    """
    return _Parser().filter(written, depth=0)


def matches(condition: Filter, metadata: Mapping[str, Any]) -> bool:
    """Tell if metadata fulfils a filter, with the result that every store must give."""
    match condition:
        case Compare(field, operator, value):
            return field in metadata and _compares(metadata[field], operator, value)
        case In(field, values):
            return field in metadata and any(
                _compares(metadata[field], "$eq", value) for value in values
            )
        case Exists(field, wanted):
            return (field in metadata) == wanted
        case And(parts):
            return all(matches(part, metadata) for part in parts)
        case Or(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)


def kind_of(value: object) -> str | None:
    """``bool``, ``number`` or ``text``; None for what metadata cannot hold."""
    match value:
        case bool():
            return "bool"
        case int():
            return "number" if abs(value) <= MAX_INTEGER else None
        case float():
            return "number" if math.isfinite(value) else None
        case str():
            return "text"
        case _:
            return None


def _compares(have: Any, operator: str, value: Any) -> bool:
    return kind_of(have) == kind_of(value) and bool(COMPARISONS[operator](have, value))


class _Parser:
    """Counts the conditions while it goes through them."""

    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, written: object, *, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise FilterError(f"filters may be {MAX_DEPTH} levels deep, this one is deeper")
        if not isinstance(written, dict):
            raise FilterError(
                f"expected a filter such as {{'label': 'cat'}}, got {_shown(written)}"
            )
        parts = [self._entry(name, value, depth=depth) for name, value in written.items()]
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _entry(self, name: object, value: object, *, depth: int) -> Filter:
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise FilterError(f"filters may hold {MAX_CONDITIONS} conditions, this one has more")
        match name:
            case "$and":
                return And(self._parts(name, value, depth=depth))
            case "$or":
                return Or(self._parts(name, value, depth=depth))
            case "$not":
                return Not(self.filter(value, depth=depth + 1))
            case str() if name and not name.startswith("$"):
                return self._field(name, value)
            case _:
                raise FilterError(f"expected a field, '$and', '$or' or '$not', got {_shown(name)}")

    def _parts(self, name: object, written: object, *, depth: int) -> tuple[Filter, ...]:
        if not isinstance(written, list):
            raise FilterError(f"{name!r} needs a list of filters, got {_shown(written)}")
        return tuple(self.filter(part, depth=depth + 1) for part in written)

    def _field(self, field: str, written: object) -> Filter:
        if not _is_text(field) or len(field.encode()) > MAX_FIELD_BYTES:
            raise FilterError(f"field names may have {MAX_FIELD_BYTES} bytes, got {_shown(field)}")
        if not isinstance(written, dict):
            return Compare(field, "$eq", _value(field, written))
        if not written:
            raise FilterError(f"field {field!r} needs a condition, got {{}}")
        self._conditions += len(written) - 1
        parts = [_condition(field, operator, value) for operator, value in written.items()]
        return parts[0] if len(parts) == 1 else And(tuple(parts))


def _condition(field: str, operator: object, value: object) -> Filter:
    match operator:
        case "$in":
            if not isinstance(value, list) or len(value) > MAX_CHOICES:
                raise FilterError(
                    f"field {field!r}: '$in' needs a list of up to {MAX_CHOICES} values, "
                    f"got {_shown(value)}"
                )
            return In(field, tuple(_value(field, choice) for choice in value))
        case "$exists":
            if not isinstance(value, bool):
                raise FilterError(
                    f"field {field!r}: '$exists' needs true or false, got {_shown(value)}"
                )
            return Exists(field, value)
        case str() if operator in COMPARISONS:
            if operator in _ORDERS and isinstance(value, bool):
                raise FilterError(
                    f"field {field!r}: {operator!r} orders numbers and texts, got {value!r}"
                )
            return Compare(field, operator, _value(field, value))
        case _:
            valid = [*COMPARISONS, "$in", "$exists"]
            raise FilterError(f"field {field!r}: expected one of {valid}, got {_shown(operator)}")


def _value(field: str, value: Any) -> str | int | float | bool:
    if kind_of(value) is None or (isinstance(value, str) and not _is_text(value)):
        raise FilterError(
            f"field {field!r}: expected a text, a finite 64-bit number, true or false, "
            f"got {_shown(value)}"
        )
    checked: str | int | float | bool = value
    return checked


def _is_text(value: str) -> bool:
    """Tell if it can be written as UTF-8: JSON may smuggle in half of a surrogate pair."""
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _shown(value: object) -> str:
    """A value as it came, cut short."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
