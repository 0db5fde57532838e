"""Files of others in the folder of a store, and files that lie with the right checksums."""

import hashlib
import json
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from dino_app.errors import StoreError
from dino_app.store.faiss_store import FaissStore
from dino_app.store.faiss_store.disk.head import NAME as HEAD, first_slots, head_of
from dino_app.store.faiss_store.disk.item_table import ItemTable
from dino_app.store.faiss_store.disk.log import EMPTY_CHAIN, records
from tests.app.store.conformance import items_of

DIM = 16
STRANGERS = [
    "base-photos/cat.jpg",
    "base-000099.notes/cat.jpg",
    "base-notes.txt",
    "log-book.txt",
    "thumbnails-backup/a.webp",
    "thumbnails-old",
    "snapshots/notes.txt",
    "snapshots/drafts/a.txt",
    "snapshots/two~/a.txt",
    "notes/a.txt",
]
LIES = [
    "null",
    "[]",
    "1" * 5000,
    "[" * 100_000,
    "{}",
    '{"format_version": 1}',
    '{"format_version": null, "index": 3}',
]


@pytest.fixture
def folder(tmp_path):
    store = FaissStore.create(tmp_path / "store", dim=DIM, model={})
    store.upsert(items_of(np.eye(DIM)))
    store.merge()
    store.close()
    return tmp_path / "store"


def test_strangers_files_stay_and_do_no_harm(folder):
    base = max(folder.glob("base-*"))
    strangers = [folder / name for name in STRANGERS]
    strangers.append(base / "notes.txt")
    for path in strangers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    store = FaissStore.open(folder, writable=True)
    store.upsert(items_of(np.eye(DIM)[:3], prefix="later"))
    store.snapshot("two")
    assert store.snapshots() == ["two"]
    store.merge()
    store.restore("two")
    store.close()
    store = FaissStore.open(folder, writable=True)
    assert store.count() == DIM + 3
    store.close()
    assert all(path.read_text() == "mine" for path in strangers)
    assert [path.name for path in base.iterdir()] == ["notes.txt"]  # only ours are gone


def test_what_a_killed_merge_left_goes(folder):
    left = folder / "base-000099.tmp"
    left.mkdir()
    (left / "vectors.npy").write_bytes(b"half")
    FaissStore.open(folder, writable=True).close()
    assert not left.exists()


@pytest.mark.parametrize("text", LIES)
def test_a_manifest_that_lies_with_the_right_checksum_is_refused(folder, text):
    head = head_of((folder / HEAD).read_bytes())
    (folder / head.base / "manifest.json").write_text(text)
    lying = {**vars(head), "manifest_sha256": hashlib.sha256(text.encode()).hexdigest()}
    (folder / HEAD).write_bytes(first_slots(type(head)(**lying)))
    with pytest.raises(
        StoreError, match=r"base-\d+(/manifest.json is not what an index writes| has format)"
    ):
        FaissStore.open(folder)


@pytest.mark.parametrize(
    "change",
    [{"commit": "1"}, {"log": -1}, {"sequence": 1 << 70}, {"base": None}, {"chain": "zz"}],
)
def test_a_head_that_lies_with_the_right_checksum_is_refused(folder, change):
    head = head_of((folder / HEAD).read_bytes())
    text = json.dumps({**vars(head), **change}).encode().ljust(959) + b"\n"
    (folder / HEAD).write_bytes(2 * (text + hashlib.sha256(text).hexdigest().encode()))
    with pytest.raises(StoreError, match="HEAD is damaged"):
        FaissStore.open(folder)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {"delete": 3},
        {"delete": [[]]},
        {"upsert": ["a"], "metadata": [[]], "pictures": [None]},
        {"upsert": [], "metadata": [{}], "pictures": []},
    ],
)
def test_a_record_that_lies_with_the_right_hash_is_refused(tmp_path, fields):
    text = json.dumps(fields).encode()
    header = b"DINOLOG1" + b"".join(n.to_bytes(8, "little") for n in (1, len(text), 0))
    digest = hashlib.sha256(bytes.fromhex(EMPTY_CHAIN) + header + text).digest()
    (tmp_path / "log-000001").write_bytes(header + text + digest)
    found = records(tmp_path / "log-000001", start=0, sequence=0, chain=EMPTY_CHAIN, dim=DIM)
    with pytest.raises(StoreError, match="a log has"):
        next(found)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("metadata", "[" * 100_000, "has metadata in row"),
        ("metadata", "[]", "has metadata in row"),
        ("metadata", 3, "has metadata in row"),
        ("picture", 3, "has a row"),
    ],
)
def test_an_item_of_another_type_is_refused(tmp_path, column, value, message):
    path = tmp_path / "items.sqlite"
    with closing(sqlite3.connect(path)) as table:
        table.execute("CREATE TABLE items (row INTEGER PRIMARY KEY, id, metadata, picture)")
        table.execute("INSERT INTO items VALUES (0, 'a', '{}', NULL)")
        table.execute(f"UPDATE items SET {column} = ?", (value,))
        table.commit()
    items = ItemTable(path)
    with pytest.raises(StoreError, match=message):
        items.of_ids(["a"])
    items.close()
