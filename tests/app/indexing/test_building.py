"""Filling an index survives stops; ids and thumbnails hold nothing they should not."""

from contextlib import closing

import numpy as np
import pytest

from dino_app.indexing.building import Incoming, fill, item_ids, prune
from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import Item
from dino_infer.errors import DataError


def parts_of(count):
    for i in range(count):
        yield Incoming(1, [Item(id=f"{i:03}", vector=np.eye(4, dtype=np.float32)[i % 4])], [])


def test_what_was_stored_before_a_stop_is_there(tmp_path):
    def interrupted():
        yield from parts_of(7)
        raise KeyboardInterrupt

    store = FaissStore.create(tmp_path / "x", dim=4, model={})
    with closing(store), pytest.raises(KeyboardInterrupt):
        fill(interrupted(), lambda: store, total=20, upsert_every_s=0)
    with closing(FaissStore.open(tmp_path / "x", writable=True)) as store:
        assert store.count() == 7
        built = fill(parts_of(20), lambda: store, total=20)
        assert (built.images, built.stored, store.count()) == (20, 20, 20)
        assert prune(store, ["000", "001", "no"]) == 18 and store.count() == 2


def test_no_item_is_stored_where_none_comes():
    def never():
        raise AssertionError

    assert fill([Incoming(3, [], [])], never, total=3).images == 3


def test_ids_are_texts_whatever_files_are_called():
    odd = ["a\nb.jpg", "\udcff.jpg", "ü/😀.jpg", "tab\t.png", "\x85.png"]
    assert item_ids(odd) == [
        "a\\x0ab.jpg",
        "\\xff.jpg",
        "ü/😀.jpg",
        "tab\\x09.png",
        "\\x85.png",
    ]
    with pytest.raises(DataError, match="too long"):
        item_ids(["x" * 1025])
    with pytest.raises(DataError, match="2 images are named 'a'"):
        item_ids(["a", "b", "a"])
