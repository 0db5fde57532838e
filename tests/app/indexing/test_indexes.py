"""Whole indexes: made at a place, and refused there."""

from contextlib import closing

import pytest

from dino_app.errors import StoreError
from dino_app.indexing.indexes import IndexTarget
from dino_app.store.opening import create_store


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
