"""Rules for items, queries and names that every store shares."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Shaped

from dino_app.store.filters import MAX_FIELD_BYTES, kind_of
from dino_app.store.interface import MAX_ID_BYTES, MAX_K, Item

MAX_METADATA_BYTES = 65_536  # as JSON: what Milvus holds
MAX_PICTURE_BYTES = 1 << 20
_ROWS_AT_ONCE = 16_384
_SNAPSHOT_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_BYTES_A_LETTER = 6  # "\u0001"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_UNIT_TOLERANCE = 2.0**-23  # what rounding to float32 does to a length of 1


def checked_items(items: Sequence[Item], *, dim: int) -> list[Item]:
    """Items with unit vectors in float32; of several with one id the last.

    Raises:
        ValueError: An id, vector, value or picture is not allowed; the message names the item.
    """
    last = {_checked_id(item.id): item for item in items}
    vectors = [_checked_vector(item, dim) for item in last.values()]
    if not vectors:
        return []
    rows = _unit_rows(np.stack(vectors), [f"item {id!r}: its vector" for id in last])
    checked = []
    for item, row in zip(last.values(), rows, strict=True):
        _check_metadata(item)
        _check_thumbnail(item)
        checked.append(
            Item(
                id=item.id,
                vector=row,
                metadata=dict(item.metadata),
                thumbnail=item.thumbnail,
            )
        )
    return checked


def checked_queries(
    vectors: Shaped[np.ndarray, "..."], *, dim: int, k: int
) -> Float32[np.ndarray, "queries dim"]:
    """Queries scaled to length 1.

    Raises:
        ValueError: ``k`` out of range, or vectors of another width, zero or not finite.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise ValueError(f"k must be from 1 to {MAX_K}, got {k!r}")
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ValueError(f"queries must have the shape (queries, {dim}), got {vectors.shape}")
    if vectors.dtype.kind not in "fiu":
        raise ValueError(f"queries must be numbers, got {vectors.dtype}")
    return _unit_rows(vectors, [f"query {number}" for number in range(len(vectors))])


def checked_name(name: str) -> str:
    """A name that a snapshot may have.

    Raises:
        ValueError: It may not.
    """
    if not isinstance(name, str) or not _SNAPSHOT_NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError(
            f"snapshots are named with 1 to 64 letters, digits, '-', '_' and '.', got {name!r}"
        )
    return name


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as compact JSON."""
    return _ENCODER.encode(metadata)


def is_id(value: object) -> bool:
    """Tell if items may have this id."""
    if not isinstance(value, str) or not value or not _is_text(value):
        return False
    if len(value) > MAX_ID_BYTES or len(value.encode()) > MAX_ID_BYTES:
        return False
    # Nearly every id takes the first way, which is a hundred times as fast.
    return value.isprintable() or all(unicodedata.category(letter) != "Cc" for letter in value)


def _checked_id(id: object) -> str:
    if not is_id(id):
        text = ascii(id)
        raise ValueError(
            f"ids are texts of 1 to {MAX_ID_BYTES} bytes without control characters, got "
            f"{text if len(text) <= 80 else text[:77] + '...'}"
        )
    return str(id)


def _checked_vector(item: Item, dim: int) -> Shaped[np.ndarray, " dim"]:
    vector = np.asarray(item.vector)
    if vector.shape != (dim,) or vector.dtype.kind not in "fiu":
        raise ValueError(
            f"item {item.id!r}: expected a vector of {dim} numbers, got {vector.dtype} "
            f"of shape {vector.shape}"
        )
    return vector


def _unit_rows(
    vectors: Shaped[np.ndarray, "rows dim"], names: Sequence[str]
) -> Float32[np.ndarray, "rows dim"]:
    unit = np.empty(vectors.shape, np.float32)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        unit[part] = _unit_part(vectors[part], names[part])
    return unit


def _unit_part(
    vectors: Shaped[np.ndarray, "rows dim"], names: Sequence[str]
) -> Float32[np.ndarray, "rows dim"]:
    rows = vectors if vectors.dtype == np.float32 else vectors.astype(np.float64)
    norms = _norms(rows)
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        row = int(bad.argmax())
        what = "is zero" if norms[row] == 0 else "holds values that are not finite"
        raise ValueError(f"{names[row]} {what}; only directions can be compared")
    # A vector that a store gave back stays as it is, bit for bit.
    norms[np.abs(norms - 1) <= _UNIT_TOLERANCE] = 1
    unit = np.empty(rows.shape, np.float32)
    np.divide(rows, norms[:, None], out=unit, casting="same_kind")
    return unit


def _norms(rows: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, " rows"]:
    with np.errstate(all="ignore"):
        norms: Float64[np.ndarray, " rows"] = np.sqrt(
            np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        )
        # Squares of very small and very large values leave the range of float64.
        odd = ~((norms > 1e-150) & (norms < 1e150))
        largest = np.abs(rows[odd]).max(axis=1, initial=0.0)
        scaled = rows[odd] / np.where(largest > 0, largest, 1)[:, None]
        norms[odd] = largest * np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    return norms


def _check_metadata(item: Item) -> None:
    letters = 0
    for name, value in item.metadata.items():
        if not isinstance(name, str) or not name or name.startswith("$") or not _is_text(name):
            raise ValueError(f"item {item.id!r}: no name for a field: {name!r}")
        if len(name.encode()) > MAX_FIELD_BYTES:
            raise ValueError(f"item {item.id!r}: a field's name exceeds {MAX_FIELD_BYTES} bytes")
        if kind_of(value) is None or (isinstance(value, str) and not _is_text(value)):
            raise ValueError(
                f"item {item.id!r}: field {name!r} needs a text, a finite 64-bit number, true or "
                f"false, got {value!r}"
            )
        letters += len(name) + (len(value) if isinstance(value, str) else 0)
    may_be_long = _MOST_BYTES_A_LETTER * letters + 40 * len(item.metadata) > MAX_METADATA_BYTES
    if may_be_long and len(metadata_text(item.metadata).encode()) > MAX_METADATA_BYTES:
        raise ValueError(f"item {item.id!r}: metadata exceed {MAX_METADATA_BYTES} bytes of JSON")


def _check_thumbnail(item: Item) -> None:
    if item.thumbnail is not None and len(item.thumbnail) > MAX_PICTURE_BYTES:
        raise ValueError(
            f"item {item.id!r}: thumbnails may have {MAX_PICTURE_BYTES} bytes, "
            f"this one has {len(item.thumbnail)}"
        )


def _is_text(value: str) -> bool:
    """Tell if it can be written as UTF-8, which half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
