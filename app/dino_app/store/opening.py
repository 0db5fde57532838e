"""Stores by where they are: a folder, or a Milvus collection.

    photos/                                  a folder, searched with FAISS
    milvus:photos.db/photos                  collection ``photos`` of Milvus Lite, in one file
    milvus:https://host:19530/photos         collection ``photos`` of a Milvus server or cluster

The token of a Milvus server is read from the environment variable ``DINO_MILVUS_TOKEN``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dino_app.store.interface import Store

MILVUS = "milvus:"


def open_store(location: str | Path, *, writable: bool = False) -> Store:
    """An existing store.

    Args:
        location: Location in one of the forms above.
        writable: Take the only place for a writer; readers are never kept out.

    Raises:
        StoreError: There is none, it is damaged, or it cannot be reached.
        StoreLockedError: Another process writes to it.
        MissingExtraError: pymilvus is not installed.
    """
    if str(location).startswith(MILVUS):
        from dino_app.store.milvus_store.store import MilvusStore

        return MilvusStore.open(str(location).removeprefix(MILVUS))
    from dino_app.store.faiss_store import FaissStore

    return FaissStore.open(Path(location), writable=writable)


def create_store(
    location: str | Path, *, dim: int, model: Mapping[str, Any], index: str = "auto"
) -> Store:
    """A new, empty store, open for writing.

    Args:
        location: Location where nothing is yet.
        dim: Width of the vectors.
        model: Description of what makes the vectors: ``Embedder.description()``, or the same
            entries of the manifest of a features file.
        index: Kind of search: "auto", "flat", or for a folder a text for FAISS's
            ``index_factory``, for Milvus "hnsw".

    Raises:
        StoreError: Something is there already, or it cannot be written.
        ValueError: There is no such index.
        MissingExtraError: pymilvus is not installed.
    """
    if str(location).startswith(MILVUS):
        from dino_app.store.milvus_store.store import MilvusStore

        collection = str(location).removeprefix(MILVUS)
        return MilvusStore.create(collection, dim=dim, model=model, index=index)
    from dino_app.store.faiss_store import FaissStore

    return FaissStore.create(Path(location), dim=dim, model=model, index=index)


def kind_at(location: str | Path, index: str) -> str:
    """The ``wanted_index`` of a store that is made there with this kind of index."""
    if str(location).startswith(MILVUS):
        from dino_app.store.milvus_store.connection import parsed_place

        return parsed_place(str(location).removeprefix(MILVUS)).kind(index)
    return index
