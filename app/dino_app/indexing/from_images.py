"""Items of an index straight from images: embedded, described, and with a thumbnail."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Shaped

from dino_app.indexing.building import Incoming, known_metadata
from dino_app.indexing.thumbnails import thumbnail
from dino_app.store.interface import Item, Metadata, Scalar, Store
from dino_infer.cores import cores
from dino_infer.embedding.decoding import ImageFile
from dino_infer.embedding.embedder import EmbeddedBatch, Embedder
from dino_infer.errors import ImageError
from dino_infer.features.files import class_names
from dino_infer.sources.image_list import ImageList

logger = logging.getLogger(__name__)


def image_items(
    embedder: Embedder,
    images: ImageList,
    ids: list[str],
    *,
    known: Store | None = None,
    thumbnails: int,
) -> Iterator[Incoming]:
    """Items of the images that are new or have changed, batch by batch.

    An image counts as unchanged if its size in bytes and its time of modification are as stored.

    Args:
        embedder: Makes the vectors.
        images: What to read.
        ids: From ``item_ids``.
        known: The store as it is.
        thumbnails: Longest side in pixels; 0 for none.
    """
    changed = _changed(images, ids, known)
    if len(changed) < len(images):
        logger.info("%d of %d images are new or have changed", len(changed), len(images))
        yield Incoming(len(images) - len(changed), [], [])
    if not len(changed):
        return
    labels, some = class_names(images), images.select(changed)
    with ThreadPoolExecutor(cores()) as pool:
        for batch in embedder.batches(some):
            names = [ids[changed[place]] for place in batch.indices]
            classes = None if labels is None else labels[changed[batch.indices]]
            pictures: list[bytes | None] = [None] * len(names)
            if thumbnails:
                pictures = list(
                    pool.map(
                        lambda place: picture_of(some, place, thumbnails), batch.indices.tolist()
                    )
                )
            items = _items(batch, names, classes, pictures)
            yield Incoming(len(batch.places), items, list(batch.failures.values()))


def picture_of(images: ImageList, place: int, longest_side: int) -> bytes | None:
    """The thumbnail of one image of a list; None, with a warning, where it cannot be read."""
    name = images.name(place)
    try:
        return thumbnail(images.read(place), name=name, longest_side=longest_side)
    except ImageError as error:
        logger.warning("no thumbnail of %s", error)
        return None


def described(name: str, file: ImageFile, label: str | None) -> Metadata:
    """What an index says of an image beside its vector."""
    metadata: dict[str, Scalar] = {"path": name, **file._asdict()}
    return metadata if label is None else metadata | {"label": label}


def _items(
    batch: EmbeddedBatch,
    ids: list[str],
    labels: Shaped[np.ndarray, " rows"] | None,
    pictures: list[bytes | None],
) -> list[Item]:
    classes: list[Any] = [None] * len(ids) if labels is None else list(labels)
    rows = zip(ids, batch.features, batch.files, classes, pictures, strict=True)
    return [
        Item(id=id, vector=vector, metadata=described(id, file, label), thumbnail=picture)
        for id, vector, file, label, picture in rows
    ]


def _changed(
    images: ImageList, ids: list[str], known: Store | None
) -> Shaped[np.ndarray, " changed"]:
    stored = known_metadata(known, ids)
    places = [place for place, before in enumerate(stored) if _differs(images, place, before)]
    return np.array(places, dtype=np.int64)


def _differs(images: ImageList, place: int, before: Metadata | None) -> bool:
    if before is None:
        return True
    try:
        size, modified_ns = images.stat(place)
    except ImageError:
        return True  # so that it is read, and reported
    same_size = size in (-1, before.get("bytes"))
    return not same_size or modified_ns != before.get("modified_ns")
