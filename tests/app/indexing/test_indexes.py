"""Whole indexes: made at a place, refused there, and copied."""

from contextlib import closing

import pytest

from dino_app.errors import StoreError
from dino_app.indexing.indexes import IndexTarget, copy_index, exists
from dino_app.store.faiss_store import FaissStore
from dino_app.store.opening import create_store, open_store
from tests.app.cli.indexed_items import assert_same_items, items_of


class Broken(FaissStore):
    """Gives one part and ends."""

    def items(self, *, batch=1000):
        yield next(super().items(batch=2))
        raise RuntimeError


def test_a_copy_is_there_when_it_is_complete(dino_index, tmp_path, built):
    (tmp_path / ".copy.index.7.dino-tmp-folder").mkdir()  # left by a killed process

    with closing(Broken.open(built.index)) as store, pytest.raises(RuntimeError):
        copy_index(store, str(tmp_path / "copy.index"))
    assert not list(tmp_path.iterdir())
    assert dino_index("copy", built.index, tmp_path / "copy.index").code == 0
    assert_same_items(items_of(tmp_path / "copy.index"), items_of(built.index))


def test_a_copy_into_milvus_is_there_when_it_is_complete(tmp_path, built):
    place = f"milvus:{tmp_path}/x.db/photos"
    with closing(Broken.open(built.index)) as store, pytest.raises(RuntimeError):
        copy_index(store, place)
    assert not exists(place)
    with pytest.raises(StoreError, match="no index at"):
        open_store(place)
    with closing(FaissStore.open(built.index)) as store:
        assert copy_index(store, place) == 16
    assert_same_items(items_of(place), items_of(built.index))


@pytest.mark.parametrize("place", ["{}/folder", "milvus:{}/x.db/photos"])
def test_another_kind_of_index_than_the_one_there_is_refused(tmp_path, place):
    place = place.format(tmp_path)
    create_store(place, dim=4, model={}, index="flat").close()
    for kind in ("hnsw", "HNSW32"):
        with pytest.raises(StoreError, match=rf"made with `index='flat'`, got '{kind}'; leave"):
            IndexTarget(place, index=kind)
    for kind in (None, "flat"):
        with closing(IndexTarget(place, index=kind)) as target:  # the refusals let go of it
            assert target.known.info().wanted_index == "flat"


def test_auto_is_another_kind_than_flat_but_where_it_is_flat(tmp_path):
    folder, lite = f"{tmp_path}/folder", f"milvus:{tmp_path}/x.db/photos"
    for place in (folder, lite):
        create_store(place, dim=4, model={}).close()
        IndexTarget(place, index="auto").close()
    IndexTarget(lite, index="flat").close()
    with pytest.raises(StoreError, match="made with `index='auto'`, got 'flat'"):
        IndexTarget(folder, index="flat")
