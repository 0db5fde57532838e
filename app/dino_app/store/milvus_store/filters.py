r"""Filters as Milvus expressions that mean exactly what ``filters.matches`` does.

Metadata are dynamic fields whose names carry the kind of their value, ``text:label`` or
``number:year``, so that a comparison with a value of another kind finds nothing instead of an
error. Milvus versions disagree on what a comparison with a missing field is, and on its negation,
so every comparison asks first whether the field exists, and negations are pushed down to them.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from dino_app.store.filters import And, Compare, Exists, Filter, In, Not, Or, kind_of
from dino_app.store.interface import Metadata

MAX_CHOICES = 512  # of one "$in": each becomes a comparison, and Milvus limits how deep they nest
MAX_EXACT = 2**53  # beyond it Milvus compares integers as rounded float64

ALWAYS, NEVER = 'id != ""', 'id == ""'
_KINDS = ("text", "number", "bool")
_SIGNS = {"$eq": "==", "$ne": "!=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPPOSITES = {"==": "!=", "!=": "==", ">": "<=", ">=": "<", "<": ">=", "<=": ">"}
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


class _UnsayableError(Exception):
    """Milvus has no expression for it."""


def expression(condition: Filter) -> str | None:
    """The filter for Milvus; None where Milvus cannot say it exactly."""
    try:
        return _said(condition, True)
    except _UnsayableError:
        return None


def one_of(ids: Iterable[str]) -> str:
    """Items with one of these ids."""
    return f"id in [{', '.join(map(quoted, ids))}]"


def quoted(text: str) -> str:
    """A text as a literal; pymilvus itself does not escape ids."""
    return f'"{text.translate(_ESCAPES)}"'


def dynamic_fields(metadata: Metadata) -> dict[str, Any]:
    """Metadata as they are stored."""
    return {_field(name, kind_of(value)): value for name, value in metadata.items()}


def metadata_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a stored row; its other fields have no colon in their names."""
    return {unquote(name.partition(":")[2]): row[name] for name in row if ":" in name}


def _field(name: str, kind: str | None) -> str:
    # Milvus reads some signs in names as paths, so only plain ones stay as they are.
    return f"{kind}:{quote(name, safe=' ').replace('~', '%7E')}"


def _path(name: str, kind: str | None) -> str:
    return f'$meta["{_field(name, kind)}"]'


def _said(condition: Filter, wanted: bool) -> str:
    match condition:
        case Compare(field, operator, value):
            sign = _SIGNS[operator]
            path = _path(field, kind_of(value))
            return _compared(path, [sign if wanted else _OPPOSITES[sign]], [value], wanted)
        case In(field, values):
            return _one_of_kinds(field, values, wanted)
        case Exists(field, there):
            return _exists(field, there == wanted)
        case And(parts):
            return _joined([_said(part, wanted) for part in parts], every=wanted)
        case Or(parts):
            return _joined([_said(part, wanted) for part in parts], every=not wanted)
        case Not(part):
            return _said(part, not wanted)


def _compared(path: str, signs: list[str], values: list[Any], wanted: bool) -> str:
    """A field that is there and fulfils one comparison; or, not wanted, is not or fulfils all."""
    word = " or " if wanted else " and "
    told = word.join(
        f"{path} {sign} {_literal(value)}" for sign, value in zip(signs, values, strict=True)
    )
    return f"(exists {path} and ({told}))" if wanted else f"(not (exists {path}) or ({told}))"


def _one_of_kinds(field: str, values: tuple[Any, ...], wanted: bool) -> str:
    if len(values) > MAX_CHOICES:
        raise _UnsayableError
    parts = []
    for kind in _KINDS:
        some = [value for value in values if kind_of(value) == kind]
        if some:
            signs = ["==" if wanted else "!="] * len(some)
            parts.append(_compared(_path(field, kind), signs, some, wanted))
    return _joined(parts, every=not wanted)


def _exists(field: str, there: bool) -> str:
    paths = [_path(field, kind) for kind in _KINDS]
    if there:
        return _joined([f"(exists {path})" for path in paths], every=False)
    return _joined([f"(not (exists {path}))" for path in paths], every=True)


def _joined(parts: list[str], *, every: bool) -> str:
    if not parts:
        return ALWAYS if every else NEVER
    return f"({(' and ' if every else ' or ').join(parts)})"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if abs(value) >= MAX_EXACT:
        raise _UnsayableError
    return repr(value)
