"""A store in a folder: vectors, items and operations on the disk, searched with FAISS."""

from dino_app.store.faiss_store.store import FaissStore

__all__ = ["FaissStore"]
