"""Duplicates are found in any store, by file and by nearness, in groups that hang together."""

import numpy as np
import pytest

from dino_app.indexing.duplicates import duplicate_groups
from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import Item

DIM = 16


@pytest.fixture
def store_of(tmp_path):
    """A function that makes a store of these rows; ids are their numbers."""
    stores = []

    def make(vectors, metadata=None):
        stores.append(FaissStore.create(tmp_path / "store", dim=DIM, model={}))
        fill(stores[0], vectors, metadata)
        return stores[0]

    yield make
    for store in stores:
        store.close()


def fill(store, vectors, metadata):
    rows = np.asarray(vectors, np.float32)
    some = metadata or [{}] * len(rows)
    store.upsert(
        [
            Item(id=f"{i:04}", vector=row, metadata=fields)
            for i, (row, fields) in enumerate(zip(rows, some, strict=True))
        ]
    )


def ids_of(groups):
    return [sorted(member.id for member in group.members) for group in groups]


def test_the_same_file_is_exact_whatever_its_vectors(store_of):
    hashes = ["ab" * 32, "cd" * 32, "ab" * 32, "no hash", "no hash"]
    store = store_of(np.eye(DIM)[:5], [{"sha256": text} for text in hashes])
    (group,) = duplicate_groups(store, threshold=0.9)
    assert group.kind == "exact" and ids_of([group]) == [["0000", "0002"]]
    assert {member.similarity for member in group.members} == {1.0}


def test_hashes_that_only_begin_alike_are_different_files(store_of):
    texts = ["ab" * 8 + "cd" * 24, "ab" * 8 + "ef" * 24]
    store = store_of(np.eye(DIM)[:2], [{"sha256": text} for text in texts])
    assert duplicate_groups(store, threshold=0.9) == []


def test_a_chain_is_one_group_and_the_largest_picture_is_kept(store_of):
    angles = np.deg2rad([0, 10, 20, 90])
    rows = np.zeros((4, DIM))
    rows[:, 0], rows[:, 1] = np.cos(angles), np.sin(angles)
    sizes = [
        {"width": 10, "height": 10, "bytes": 5},
        {"width": 20, "height": 10, "bytes": 1},
        {"width": 10, "height": 20, "bytes": 2},
        {},
    ]
    (group,) = duplicate_groups(store_of(rows, sizes), threshold=float(np.cos(np.deg2rad(11))))
    assert group.kind == "near"
    assert [member.id for member in group.members] == ["0002", "0001", "0000"]
    assert group.members[0].similarity == pytest.approx(np.cos(np.deg2rad(10)), abs=1e-6)


def test_many_pictures_that_are_alike_are_one_group(store_of):
    rows = np.concatenate([np.tile(np.eye(DIM)[0], (50, 1)), np.eye(DIM)[1:3]])
    (group,) = duplicate_groups(store_of(rows), threshold=0.99)
    assert len(group.members) == 50


def test_groups_equal_those_of_all_pairs(store_of):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, DIM))
    rows = centres[rng.integers(60, size=700)] + 0.35 * rng.standard_normal((700, DIM))
    store = store_of(rows)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = unit @ unit.T >= 0.9
    expected, seen = [], set()
    for start in range(len(rows)):
        group, frontier = set(), {start} - seen
        while frontier:
            group |= frontier
            frontier = set(np.flatnonzero(near[list(frontier)].any(axis=0))) - group
        seen |= group
        if len(group) > 1:
            expected.append(sorted(f"{i:04}" for i in group))
    assert len(expected) > 10
    assert sorted(ids_of(duplicate_groups(store, threshold=0.9))) == sorted(expected)


def test_an_empty_store_has_none(store_of):
    assert duplicate_groups(store_of([]), threshold=0.5) == []
