"""Verify that everything in a store can be read and makes sense."""

import numpy as np

from dino_app.errors import StoreError
from dino_app.store.interface import Item, Store
from dino_app.store.item_checks import checked_items
from dino_infer.errors import ImageError
from dino_infer.images.read import read_image
from dino_infer.progress import Progress

MAX_PIXELS = 4 << 20  # of a thumbnail
LENGTH_TOLERANCE = 1e-5


def verify_store(store: Store) -> tuple[int, int]:
    """Go through all items; opening the store has checked its files.

    Returns:
        How many items there are, and how many thumbnails.

    Raises:
        StoreError: Something is wrong; the message names the item.
    """
    info = store.info()
    count = pictures = 0
    with Progress("verify", total=info.rows) as progress:
        for part in store.items():
            try:
                checked_items(part, dim=info.dim)
            except ValueError as error:
                raise StoreError(f"damaged: {error}") from error
            for item in part:
                _check(item)
            count += len(part)
            pictures += sum(item.thumbnail is not None for item in part)
            progress.advance(len(part))
    if count != info.rows:
        raise StoreError(f"{info.rows} items are counted and {count} can be read")
    return count, pictures


def _check(item: Item) -> None:
    length = float(np.linalg.norm(item.vector))
    if abs(length - 1) > LENGTH_TOLERANCE:
        raise StoreError(f"item {item.id!r}: its vector has the length {length:.6f}, expected 1")
    if item.thumbnail is not None:
        try:
            read_image(item.thumbnail, path="thumbnail", max_pixels=MAX_PIXELS)
        except ImageError as error:
            raise StoreError(f"item {item.id!r}: {error}") from error
