"""Groups of pictures that are the same file, or nearly the same picture."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dino_app.indexing.indexes import check_exact
from dino_app.store.interface import MAX_K, Item, Metadata, SearchParams, Store
from dino_infer.progress import Progress

ITEMS_AT_ONCE = 512
FEW_HITS = 16  # asked for at first; more where all of them are near

Kind = Literal["exact", "near"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One picture of a group."""

    id: str
    similarity: float
    """Cosine to the member it is nearest to."""
    metadata: Metadata

    @property
    def pixels(self) -> int:
        """Width times height; 0 where the index does not tell."""
        sides = [self.metadata.get(name) for name in ("width", "height")]
        width, height = (side if isinstance(side, int) else 0 for side in sides)
        return width * height


@dataclass(frozen=True)
class Group:
    """Pictures that hang together, each near another; the first is the one to keep."""

    kind: Kind
    """Exact where all are the same file."""
    members: tuple[Member, ...]
    """The largest picture first; of equally large ones the largest file, then the first id."""

    @property
    def possible_links(self) -> int:
        """Members with the bytes and the time of an earlier one, as all names of one file have."""
        told = [(m.metadata.get("sha256"), m.metadata.get("modified_ns")) for m in self.members]
        known = [one for one in told if None not in one]
        return len(known) - len(set(known))


def duplicate_groups(store: Store, *, threshold: float, exact: bool = False) -> list[Group]:
    """All groups of a store, in the order of the ids to keep.

    The store is gone through in blocks, and only what has a duplicate is remembered, so memory
    does not grow with the store but for 8 bytes an item.

    Args:
        store: Index with a field ``sha256`` for files that are the same.
        threshold: Cosine similarity from which on two pictures count as the same.
        exact: Compare with every vector, even where an approximate index exists.

    Raises:
        StoreError: The store cannot compare with every vector.
    """
    found = _Groups()
    params = SearchParams(exact=exact)
    total, digests = store.info().rows, bytearray()
    with Progress("compare", total=total) as progress:
        for block in _blocks(store):
            digests += b"".join(map(_digest, block))
            _join_near(store, block, found, threshold=threshold, params=params)
            progress.advance(len(block))
    _join_equal(store, _repeated(digests), found)
    return _described(store, found)


class _Groups:
    """Union of what is linked; knows only items that have a link."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}
        self.similarities: dict[str, float] = {}

    def link(self, one: str, other: str, similarity: float) -> None:
        """Two items belong together."""
        for id in (one, other):
            self._parents.setdefault(id, id)
            self.similarities[id] = max(similarity, self.similarities.get(id, -1.0))
        first, second = sorted((self._root(one), self._root(other)))
        self._parents[second] = first

    def all(self) -> list[list[str]]:
        """The ids of each group."""
        groups = defaultdict(list)
        for id in self._parents:
            groups[self._root(id)].append(id)
        return list(groups.values())

    def _root(self, id: str) -> str:
        while self._parents[id] != id:
            self._parents[id] = self._parents[self._parents[id]]  # so that paths stay short
            id = self._parents[id]
        return id


def _blocks(store: Store) -> Iterator[list[Item]]:
    after = None
    while page := store.page(after=after, limit=ITEMS_AT_ONCE):
        after = page[-1].id
        yield page


def _digest(item: Item) -> bytes:
    """The first 8 bytes of the hash of the file; nothing where there is none."""
    try:
        return bytes.fromhex(str(item.metadata.get("sha256", "")))[:8]
    except ValueError:
        return b""


def _repeated(digests: bytearray) -> set[bytes]:
    """Beginnings that hashes have in common, of the same file or by chance."""
    values, counts = np.unique(np.frombuffer(digests, dtype=np.uint64), return_counts=True)
    return {value.tobytes() for value in values[counts > 1]}


def _join_near(
    store: Store, block: list[Item], found: _Groups, *, threshold: float, params: SearchParams
) -> None:
    """Link the items of a block to all that are near; where all hits are, there may be more."""
    k = FEW_HITS
    while block:
        vectors = np.stack([item.vector for item in block])
        answers = store.search(vectors, k=k, params=params)
        check_exact(answers, params)
        crowded = []
        for item, hits in zip(block, answers.hits, strict=True):
            for hit in hits:
                if hit.id != item.id and hit.score >= threshold:
                    found.link(item.id, hit.id, hit.score)
            if len(hits) == k and hits[-1].score >= threshold:
                crowded.append(item)
        if crowded and k == MAX_K:
            logger.warning("%d pictures have %d or more that are near", len(crowded), MAX_K)
            return
        block, k = crowded, min(8 * k, MAX_K)


def _join_equal(store: Store, repeated: set[bytes], found: _Groups) -> None:
    """Link items of the same file, whatever their vectors are."""
    first: dict[str, str] = {}
    for block in _blocks(store) if repeated else ():
        for item in block:
            if _digest(item) in repeated:
                other = first.setdefault(str(item.metadata["sha256"]), item.id)
                if other != item.id:
                    found.link(other, item.id, 1.0)


def _described(store: Store, found: _Groups) -> list[Group]:
    groups = []
    for ids in found.all():
        items = [item for item in store.get(ids) if item is not None]
        members = [
            Member(id=item.id, similarity=found.similarities[item.id], metadata=item.metadata)
            for item in items
        ]
        members.sort(key=lambda member: (-member.pixels, -_bytes(member), member.id))
        if len(members) < 2:  # the others were deleted
            continue
        hashes = {member.metadata.get("sha256") for member in members}
        kind: Kind = "exact" if len(hashes) == 1 and None not in hashes else "near"
        groups.append(Group(kind, tuple(members)))
    return sorted(groups, key=lambda group: group.members[0].id)


def _bytes(member: Member) -> int:
    size = member.metadata.get("bytes")
    return size if isinstance(size, int) else 0
