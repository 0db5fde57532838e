"""Items as rows of Milvus, and back."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from dino_app.store.interface import Item
from dino_app.store.item_checks import MAX_METADATA_BYTES, metadata_text
from dino_app.store.milvus_store.collections import MAX_TEXT_BYTES, NO_DIM
from dino_app.store.milvus_store.filters import dynamic_fields, metadata_of

_PART_BYTES = MAX_TEXT_BYTES // 4 * 3  # in base64 just what a text holds
_NO_VECTOR = [0.0] * NO_DIM


def row_of(item: Item) -> dict[str, Any]:
    """An item without its thumbnail.

    Raises:
        ValueError: Its metadata are too large for Milvus.
    """
    fields = dynamic_fields(item.metadata)
    size = len(metadata_text(fields).encode())
    if size > MAX_METADATA_BYTES:
        raise ValueError(
            f"item {item.id!r}: metadata may have {MAX_METADATA_BYTES} bytes in Milvus, with the "
            f"kind of each field, these have {size}"
        )
    return {"id": item.id, "vector": item.vector, **fields}


def item_of(row: Mapping[str, Any], thumbnail: bytes | None = None) -> Item:
    """An item of a stored row that was read with its vector and dynamic fields."""
    vector = np.array(row["vector"], dtype=np.float32)
    return Item(id=row["id"], vector=vector, metadata=metadata_of(row), thumbnail=thumbnail)


def picture_row(id: str, picture: bytes) -> dict[str, Any]:
    """A thumbnail, or other bytes, in parts."""
    starts = range(0, len(picture), _PART_BYTES)
    parts = [base64.b64encode(picture[at : at + _PART_BYTES]).decode() for at in starts]
    return {"id": id, "vector": _NO_VECTOR, "parts": parts}


def picture_of(row: Mapping[str, Any]) -> bytes:
    """The bytes of a stored row."""
    return b"".join(map(base64.b64decode, row["parts"]))
