"""Collections of a store in Milvus: what a stop leaves behind, and what others made."""

import json
from contextlib import closing

import numpy as np
import pytest
from pymilvus import MilvusClient

from dino_app.errors import StoreError
from dino_app.store.interface import Item
from dino_app.store.milvus_store.collections import DIM, INDEX, MODEL, PICTURES
from dino_app.store.milvus_store.connection import Connection
from dino_app.store.milvus_store.store import MilvusStore

OURS = {MODEL: "{}", DIM: "4", INDEX: "flat"}


class Stop(BaseException):
    """The process is killed here."""


@pytest.fixture
def lite(tmp_path):
    """A file that stays open, as starting Milvus Lite takes a second."""
    with closing(MilvusStore.create(f"{tmp_path}/test.db/keeper", dim=2, model={})):
        yield f"{tmp_path}/test.db"


@pytest.fixture
def photos(lite):
    with closing(MilvusStore.create(f"{lite}/photos", dim=4, model={})) as store:
        store.upsert([Item(id="a", vector=np.ones(4, np.float32), thumbnail=b"old")])
        yield store


def stop_at(monkeypatch, method, count):
    """Be killed by the count-th call of a method, before it has done anything."""
    calls, call = [], Connection.call

    def stopping(self, name, /, *args, **options):
        calls.extend([name] * (name == method))
        if len(calls) == count:
            raise Stop
        return call(self, name, *args, **options)

    monkeypatch.setattr(Connection, "call", stopping)


@pytest.mark.parametrize("count", [1, 2])
def test_a_snapshot_that_was_stopped_is_made_when_asked_again(photos, monkeypatch, count):
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, "rename_collection", count)
        photos.snapshot("one")
    assert photos.snapshots() == []
    photos.snapshot("one")
    assert photos.snapshots() == ["one"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_restore_that_was_stopped_is_completed_when_asked_again(photos, monkeypatch, count):
    photos.snapshot("one")
    photos.upsert([Item(id="a", vector=-np.ones(4, np.float32), thumbnail=b"new")])
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at(patch, "alter_alias", count)
        photos.restore("one")
    photos.restore("one")
    assert photos.thumbnail("a") == b"old" and (photos.get(["a"])[0].vector > 0).all()
    names = photos._collections._names()
    assert sum("__snapshot_" not in name and name.startswith("photos__") for name in names) == 2


def test_collections_of_others_are_no_snapshots(lite, photos):
    client = MilvusClient(lite)
    for code in ("zz", "ff", "6", "copy"):
        client.create_collection(f"photos__snapshot_{code}", dimension=4)
    assert photos.snapshots() == []
    client.close()


@pytest.mark.parametrize(
    "damage",
    [{DIM: "x"}, {DIM: "0"}, {MODEL: "{"}, {MODEL: "[]"}, {MODEL: "[" * 10**5}, {INDEX: "IVF"}],
    ids=lambda damage: json.dumps(damage)[:30],
)
def test_properties_that_are_damaged_are_said(lite, damage):
    client = MilvusClient(lite)
    client.create_collection("photos", dimension=4, properties=OURS | damage)
    client.create_collection("photos" + PICTURES, dimension=2)
    with pytest.raises(StoreError, match="or its properties are damaged"):
        MilvusStore.open(f"{lite}/photos")
    client.close()
