"""Applications built on features: a retrieval index, an HTTP server and a browser demo."""

from pathlib import Path
from typing import TYPE_CHECKING

from dino_infer import __version__ as __version__

if TYPE_CHECKING:
    from dino_app.store.interface import Store

__all__ = ["open_index"]


def open_index(location: str | Path, *, writable: bool = False) -> "Store":
    """Open an index that exists; see ``dino_app.store.opening.open_store``.

    Raises:
        StoreError: There is none, it is damaged, or it cannot be reached.
        StoreLockedError: Another process writes to it.
        MissingExtraError: pymilvus is not installed.
    """
    from dino_app.store.opening import open_store

    return open_store(location, writable=writable)
