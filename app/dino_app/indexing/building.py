"""Images or features into an index: what is new or changed, in steps that survive a stop."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dino_app.errors import StoreError
from dino_app.store.interface import Item, Metadata, Store
from dino_app.store.item_checks import is_id
from dino_infer.errors import DataError
from dino_infer.features.table import printable_name
from dino_infer.images.read import ImageFailure
from dino_infer.progress import Progress

UPSERT_EVERY_S = 10.0
MAX_PENDING = 2000  # items; with their thumbnails some 20 MB
IDS_AT_ONCE = 1000

logger = logging.getLogger(__name__)


class Incoming(NamedTuple):
    """The next few images of a source."""

    images: int
    """Number of images, with those that failed or need no change."""
    items: list[Item]
    failures: list[ImageFailure]


@dataclass(frozen=True, kw_only=True)
class Built:
    """Outcome for the images of a source."""

    images: int = 0
    stored: int = 0
    """Number of images that are new or changed."""
    failures: tuple[ImageFailure, ...] = ()


def fill(
    incoming: Iterable[Incoming],
    store: Callable[[], Store],
    *,
    total: int,
    upsert_every_s: float = UPSERT_EVERY_S,
) -> Built:
    """Put what comes into a store, in steps; what a step stored survives any stop.

    Args:
        incoming: Result of ``image_items`` or ``feature_items``.
        store: The store to fill, asked for when there is a first item, so that a source of which
            nothing can be read leaves no empty index behind.
        total: Images that will come, for the progress bar.
        upsert_every_s: Seconds of work that a stop may lose.
    """
    pending: list[Item] = []
    failures: list[ImageFailure] = []
    images = stored = 0
    last_s = -math.inf  # the first step at once: a place that cannot be written shows early
    with Progress("index", total=total) as progress:
        for part in incoming:
            pending += part.items
            failures += part.failures
            images += part.images
            due = time.monotonic() - last_s >= upsert_every_s
            if pending and (due or len(pending) >= MAX_PENDING):
                stored += _store(pending, store)
                pending, last_s = [], time.monotonic()
            progress.advance(part.images)
        stored += _store(pending, store)
    return Built(images=images, stored=stored, failures=tuple(failures))


def prune(store: Store, ids: Collection[str]) -> int:
    """Take out items whose ids are not among these; returns how many there were."""
    kept, gone, after = set(ids), 0, None
    while page := store.page(after=after, limit=IDS_AT_ONCE):
        after = page[-1].id
        gone += len(store.delete([item.id for item in page if item.id not in kept]))
    return gone


def item_ids(names: Iterable[str], *, location: Callable[[int], str] | None = None) -> list[str]:
    r"""The id of each image: its name as listed, bytes that no text may hold as ``\xff``.

    Raises:
        DataError: Two images have one name, or a name is too long for an id.
    """
    ids = [id_of(name) for name in names]
    for id, count in Counter(ids).most_common(1):
        if count > 1:
            first, second = [at for at, name in enumerate(ids) if name == id][:2]
            such = f": {location(first)!r}, {location(second)!r}" if location else ""
            raise DataError(
                f"{count} images are named {id!r}{such}; give one folder that holds all of them, "
                "so that their paths differ"
            )
    return ids


def known_metadata(store: Store | None, ids: list[str]) -> Iterator[Metadata | None]:
    """Metadata that a store has for each id; None where it has none."""
    for start in range(0, len(ids), IDS_AT_ONCE):
        part = ids[start : start + IDS_AT_ONCE]
        found = [None] * len(part) if store is None else store.get(part)
        yield from (None if item is None else item.metadata for item in found)


def _store(items: list[Item], store: Callable[[], Store]) -> int:
    """Write items, if any; return how many there were."""
    if items:
        try:
            store().upsert(items)
        except ValueError as error:  # a label of 64 kB, say
            raise StoreError(f"an image cannot be stored: {error}") from error
    return len(items)


def id_of(name: str) -> str:
    """Id of an image of this name.

    Raises:
        DataError: The name is too long.
    """
    id = "".join(
        letter if letter.isprintable() or not _is_control(letter) else f"\\x{ord(letter):02x}"
        for letter in printable_name(name)
    )
    if not is_id(id):
        raise DataError(f"a name of an image is too long for an index: {id[:80]!r}...")
    return id


def _is_control(letter: str) -> bool:
    return ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0
