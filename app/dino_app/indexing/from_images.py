"""Items of an index straight from images: embedded, described, and with a thumbnail."""

import functools
import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from dino_app.indexing.building import Incoming, id_of, known_metadata
from dino_app.indexing.thumbnails import thumbnail
from dino_app.store.interface import Item, Metadata, Scalar, Store
from dino_infer.cores import cores
from dino_infer.embedding.batches import EmbeddedBatch
from dino_infer.embedding.decoding import ImageFile
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError, ImageError
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

    An image counts as unchanged if its source, its size in bytes and its time of modification are
    as stored; of another source, as after a move, its content decides.
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
            where = [images.sources[images.source(changed[place])] for place in batch.indices]
            items = _items(batch, names, classes, where, pictures)
            yield Incoming(len(batch.places), items, list(batch.failures.values()))


def picture_of(images: ImageList, place: int, longest_side: int) -> bytes | None:
    """The thumbnail of one image of a list; None, with a warning, where it cannot be read."""
    name = images.name(place)
    try:
        return thumbnail(images.read(place), name=name, longest_side=longest_side)
    except ImageError as error:
        logger.warning("no thumbnail of %s", error)
        return None


def described(name: str, file: ImageFile, label: str | None, source: str) -> Metadata:
    """Facts about an image that an index keeps beside its vector."""
    metadata: dict[str, Scalar] = {"path": name, **file._asdict(), "source": _mark(source)}
    return metadata if label is None else metadata | {"label": label}


def without_stored_files(images: ImageList, known: Store | None) -> ImageList:
    """Images without those whose file is stored already under another name.

    Links of a later listing lead to such files, and so do folders above or below the one of then.
    """
    if known is None:
        return images
    names = [id_of(images.name(place)) for place in range(len(images))]
    stored: dict[int, str] = {}
    for place, before in enumerate(known_metadata(known, names)):
        if before is None and (other := _other_name(images, place, known)) is not None:
            stored[place] = other
    if stored:
        place, other = next(iter(stored.items()))
        logger.info(
            "%d of %d images are files that the index has under another name, and do not count, "
            "such as %r, which is %r",
            len(stored),
            len(images),
            images.location(place),
            other,
        )
    return images.select([place for place in range(len(images)) if place not in stored])


def _other_name(images: ImageList, place: int, known: Store) -> str | None:
    """Id under which the file of an image is stored from any folder above it, or None."""
    folder, file = images.place(place)
    path = Path(os.fsdecode(os.path.realpath(os.path.join(folder, file))))
    if str(path) == images.sources[images.source(place)]:  # a tar or table, which holds it
        member = images.name(place).partition("/")[2]
        names = {f"{path.name}/{member}": path}
    else:
        names = {str(path.relative_to(root)): root for root in path.parents}
    marks = {}
    for name, root in names.items():
        with suppress(DataError):  # too long, so it cannot be stored
            marks[id_of(name)] = _mark(str(root))
    for item in known.get(list(marks)):
        if item is not None and item.metadata.get("source") == marks[item.id]:
            return item.id
    return None


@functools.lru_cache
def _mark(source: str) -> str:
    """Text that tells one source from others, and no reader of the index where it lies."""
    return hashlib.sha256(os.fsencode(source)).hexdigest()[:16]


def _items(
    batch: EmbeddedBatch,
    ids: list[str],
    labels: Shaped[np.ndarray, " rows"] | None,
    sources: list[str],
    pictures: list[bytes | None],
) -> list[Item]:
    classes: list[Any] = [None] * len(ids) if labels is None else list(labels)
    rows = zip(ids, batch.features, batch.files, classes, sources, pictures, strict=True)
    return [
        Item(id=id, vector=vector, metadata=described(id, file, label, source), thumbnail=picture)
        for id, vector, file, label, source, picture in rows
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
        if size not in (-1, before.get("bytes")) or modified_ns != before.get("modified_ns"):
            return True
        if before.get("source") == _mark(images.sources[images.source(place)]):
            return False
        return hashlib.sha256(images.read(place)).hexdigest() != before.get("sha256")
    except ImageError:
        return True  # so that it is read, and reported
