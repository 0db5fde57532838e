"""Copies of indexes: there when they are complete, and gone on from after a stop."""

import os
import signal
from contextlib import closing

import numpy as np
import pytest

from dino_app.errors import StoreError
from dino_app.indexing.copying import copy_index
from dino_app.indexing.indexes import exists
from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import Item
from dino_app.store.opening import create_store, open_store
from tests.app.cli.indexed_items import assert_same_items, items_of
from tests.killing import exit_code, forked


class Broken(FaissStore):
    """Gives three items and ends."""

    def items(self, *, batch=1000):
        yield next(super().items(batch=3))
        raise RuntimeError


class Deadly(FaissStore):
    """Gives three items and kills the process."""

    def items(self, *, batch=1000):
        yield next(super().items(batch=3))
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_copy_goes_on(dino_index, tmp_path, built):
    place = tmp_path / "copy.index"
    with closing(Deadly.open(built.index)) as store:
        process = forked(lambda: copy_index(store, str(place)).items)
        assert exit_code(process) is None
    assert not exists(str(place))

    copied = dino_index("copy", built.index, place)

    assert (copied.code, copied.out) == (
        0,
        f"{place}: 16 items copied, 3 of them by an earlier run\n",
    )
    assert_same_items(items_of(place), items_of(built.index))
    assert [path.name for path in tmp_path.iterdir()] == ["copy.index"]


def test_a_stopped_copy_into_milvus_goes_on(tmp_path, built):
    place = f"milvus:{tmp_path}/x.db/photos"
    with closing(Broken.open(built.index)) as store, pytest.raises(RuntimeError):
        copy_index(store, place)
    assert not exists(place)
    with pytest.raises(StoreError, match="no index at"):
        open_store(place)
    with closing(FaissStore.open(built.index)) as store:
        assert copy_index(store, place) == (16, 3)
    assert_same_items(items_of(place), items_of(built.index))


def items(ids, seed):
    vectors = np.random.default_rng(seed).standard_normal((len(ids), 8), np.float32)
    return [
        Item(id=id, vector=row, metadata={"n": id}) for id, row in zip(ids, vectors, strict=True)
    ]


@pytest.mark.parametrize("place", ["{}/copy", "milvus:{}/x.db/photos"])
def test_a_copy_goes_on_from_a_source_that_has_changed(tmp_path, place):
    place = place.format(tmp_path)
    with closing(create_store(tmp_path / "source", dim=8, model={})) as store:
        store.upsert(items("abcd", 0))
    with closing(Broken.open(tmp_path / "source")) as store, pytest.raises(RuntimeError):
        copy_index(store, place)
    with closing(open_store(tmp_path / "source", writable=True)) as store:
        store.delete(["b"])
        store.upsert(items("c", 1))

        assert copy_index(store, place) == (3, 1)

        assert_same_items(
            items_of(place), {item.id: item for part in store.items() for item in part}
        )


@pytest.mark.parametrize("damage", ["truncated", "another model", "another kind"])
def test_a_copy_begins_again_where_it_cannot_go_on(tmp_path, damage):
    for name in ("source", "other"):
        with closing(create_store(tmp_path / name, dim=8, model={"name": name})) as store:
            store.upsert(items("abcd", 0))
    begun = "other" if damage == "another model" else "source"
    index = "flat" if damage == "another kind" else "auto"
    with closing(Broken.open(tmp_path / begun)) as store, pytest.raises(RuntimeError):
        copy_index(store, str(tmp_path / "copy"), index=index)
    if damage == "truncated":
        (log,) = (tmp_path / ".copy.dino-copy").glob("log-*")
        log.write_bytes(log.read_bytes()[:-1])
    with closing(open_store(tmp_path / "source")) as store:
        assert copy_index(store, str(tmp_path / "copy")) == (4, 0)
        assert items_of(tmp_path / "copy").keys() == set("abcd")
