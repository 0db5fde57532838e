"""Milvus Lite keeps the contract of every store, and its own limits are told."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from dino_app.errors import StoreError, StoreLockedError
from dino_app.store.filters import parsed_filter
from dino_app.store.interface import Item
from dino_app.store.item_checks import MAX_METADATA_BYTES, checked_items, metadata_text
from dino_app.store.milvus_store.connection import parsed_place
from dino_app.store.milvus_store.store import MilvusStore
from dino_app.store.opening import create_store, open_store
from tests.app.store.conformance import DIM, StoreContract

ROOT = Path(__file__).parents[4]
OPENED = """
import sys
from dino_app.errors import StoreLockedError
from dino_app.store.opening import open_store
try:
    open_store(sys.argv[1]).close()
except StoreLockedError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """A file that stays open, as starting Milvus Lite takes a second."""
    file = tmp_path_factory.mktemp("milvus") / "test.db"
    with closing(MilvusStore.create(f"{file}/keeper", dim=2, model={})):
        yield file


def items_of(count, **metadata):
    rows = np.random.default_rng(0).standard_normal((count, DIM)).astype(np.float32)
    return [Item(id=f"{i:05}", vector=row, metadata=metadata) for i, row in enumerate(rows)]


class TestMilvusStore(StoreContract):
    EXAMPLES = 5

    @pytest.fixture
    def parent(self, lite):
        return f"milvus:{lite}"

    def test_what_milvus_cannot_say_is_found_all_the_same(self, store):
        big, many = 2**53 + 1, [f"c{i}" for i in range(700)]
        for i, item in enumerate(items_of(8)):
            label = "other" if i == 7 else many[100 * i]
            fields = {"n": big + i % 2, "label": label, "a/b~\n[0]": i}
            store.upsert([Item(id=item.id, vector=item.vector, metadata=fields)])
        for written, count in [
            ({"n": big}, 4),
            ({"n": {"$gt": big}}, 4),
            ({"$not": {"n": big}}, 4),
            ({"label": {"$in": many[:350]}}, 4),
            ({"label": {"$in": many}}, 7),
            ({"a/b~\n[0]": {"$gte": 3}}, 5),
        ]:
            condition = parsed_filter(written)
            assert store.count(condition) == count, written
            (hits,) = store.search(np.ones((1, DIM)), k=8, filter=condition).hits
            assert len(hits) == count and len(store.page(filter=condition)) == count

    def test_large_thumbnails_and_many_items_come_back(self, store):
        picture = np.random.default_rng(0).bytes(200_000)
        items = items_of(2500)
        first = Item(id="00000", vector=items[0].vector, thumbnail=picture)
        store.upsert([first, *items[1:]])
        parts = list(store.items(batch=1100))
        assert [len(part) for part in parts] == [1100, 1100, 300]
        assert parts[0][0].thumbnail == picture == store.thumbnail("00000")
        assert len(store.get([item.id for item in items])) == 2500
        assert len(store.delete([item.id for item in items])) == 2500 and store.count() == 0

    def test_metadata_that_milvus_cannot_hold_are_refused(self, store):
        fields = {f"field {i}": "" for i in range(9)}
        room = MAX_METADATA_BYTES - len(metadata_text({**fields, "text": ""}))
        (item,) = checked_items(items_of(1, **fields, text="x" * room), dim=DIM)
        with pytest.raises(ValueError, match="'00000': metadata may have 65536 bytes in Milvus"):
            store.upsert([item])
        assert store.count() == 0


def test_one_process_at_a_time_has_the_file(tmp_path):
    location = f"milvus:{tmp_path}/own.db/photos"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "app")])}
    with closing(create_store(location, dim=DIM, model={"a": 1})) as store:
        store.upsert(items_of(3))
        run = subprocess.run(
            [sys.executable, "-c", OPENED, location],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "is open in another process" in run.stdout
        assert "Traceback" not in run.stderr
    with closing(open_store(location)) as store:
        assert store.count() == 3 and store.info().model == {"a": 1}


def test_a_collection_of_somebody_else_is_left_alone(lite):
    from pymilvus import MilvusClient

    client = MilvusClient(str(lite))
    client.create_collection("theirs", dimension=4)
    with pytest.raises(StoreError, match="dino-index did not make"):
        MilvusStore.open(f"{lite}/theirs")
    with pytest.raises(StoreError, match="is there already"):
        MilvusStore.create(f"{lite}/theirs", dim=4, model={})
    client.close()


def test_what_is_not_there_is_said(lite, tmp_path):
    with pytest.raises(StoreError, match="no index at"):
        MilvusStore.open(f"{lite}/nothing")
    with pytest.raises(StoreError, match="no index at"):
        MilvusStore.open(f"{tmp_path}/nothing.db/photos")
    with pytest.raises(StoreError, match="does not exist; make it"):
        MilvusStore.create(f"{tmp_path}/no/folder.db/photos", dim=4, model={})
    with pytest.raises(ValueError, match="expected an index of Milvus"):
        MilvusStore.create(f"{lite}/new", dim=4, model={}, index="IVF")
    assert not MilvusStore.exists(f"{lite}/new")


@pytest.mark.parametrize(
    "location", ["photos.db", "photos/photos", "x.db/a__b", "x.db/ü", "x.db/", "ftp://h/x", "/x"]
)
def test_a_wrong_location_is_explained(location):
    with pytest.raises(StoreError, match="expected milvus:FILE.db/COLLECTION or"):
        parsed_place(location)


def test_a_closed_store_says_so(lite):
    store = MilvusStore.create(f"{lite}/closed", dim=DIM, model={})
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        store.count()


def test_a_file_that_is_no_milvus_is_refused(tmp_path):
    (tmp_path / "x.db").mkdir()
    (tmp_path / "x.db" / "collections").write_text("no folder")
    with pytest.raises(StoreError) as error:
        MilvusStore.open(f"{tmp_path}/x.db/photos")
    assert not isinstance(error.value, StoreLockedError)
