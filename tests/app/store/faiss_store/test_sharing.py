"""Threads and processes at one store, and disks and folders that refuse."""

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from dino_app.errors import StoreError, StoreLockedError
from dino_app.store.faiss_store import FaissStore, merging
from dino_app.store.interface import Item
from tests.app.store.conformance import items_of
from tests.app.store.faiss_store.reading_processes import GROUPS, group_of, search_once

ROOT = Path(__file__).parents[4]
DIM = 16
SOAK_S = 4
MORE_FILES_ALLOWED = 12  # connections of threads that search at the same time


@pytest.fixture
def small_merges(monkeypatch):
    monkeypatch.setattr(merging, "LEAST_ROWS", 200)
    monkeypatch.setattr(merging, "SHARE", 0.0)


@pytest.fixture
def folder(tmp_path):
    store = FaissStore.create(tmp_path / "store", dim=DIM, model={})
    store.upsert(items_of(np.eye(DIM)))
    store.close()
    return tmp_path / "store"


def reader_process(folder, seconds):
    paths = os.pathsep.join(str(ROOT / name) for name in ("", "app"))
    command = [
        sys.executable,
        "-m",
        "tests.app.store.faiss_store.reading_processes",
        folder,
        str(seconds),
    ]
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_writers_searchers_and_other_processes_see_whole_versions(tmp_path, small_merges):
    store = FaissStore.create(tmp_path / "store", dim=DIM, model={})
    for number in range(GROUPS):
        store.upsert(group_of(number, 0))
    errors, end_s = [], time.monotonic() + SOAK_S

    def repeat(work):
        try:
            while time.monotonic() < end_s:
                work()
        except BaseException as error:
            errors.append(error)

    def write(numbers, rng):
        number = int(rng.choice(numbers))
        store.upsert(group_of(number, int(rng.integers(1, 10**6))))
        if rng.random() < 0.2:
            store.delete([item.id for item in group_of(number, 0)])

    rngs = [np.random.default_rng(i) for i in range(10)]
    works = [lambda rng=rng: search_once(store, rng) for rng in rngs[:8]]
    works += [lambda: write(range(6), rngs[8]), lambda: write(range(6, GROUPS), rngs[9])]
    reader = reader_process(tmp_path / "store", SOAK_S)
    files = open_files()
    threads = [threading.Thread(target=repeat, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert open_files() <= files + MORE_FILES_ALLOWED
    out, _ = reader.communicate(timeout=120)
    assert reader.returncode == 0 and int(out.split()[0]) > 0
    store.close()
    assert len(list((tmp_path / "store").glob("base-*"))) <= 3


def test_there_is_one_writer_and_readers_come_in(folder):
    writer = FaissStore.open(folder, writable=True)
    with pytest.raises(StoreLockedError, match="another process writes"):
        FaissStore.open(folder, writable=True)
    with pytest.raises(StoreLockedError):
        FaissStore.recover(folder, "any")
    reader = FaissStore.open(folder)
    with pytest.raises(StoreError, match="opened for reading only"):
        reader.upsert(items_of(np.eye(DIM)))
    writer.close()
    again = FaissStore.open(folder, writable=True)
    for store in (again, reader):
        store.close()
        with pytest.raises(StoreError, match="was closed"):
            store.count()


def test_a_reader_follows_writes_merges_and_restores(folder):
    writer, reader = FaissStore.open(folder, writable=True), FaissStore.open(folder)
    writer.snapshot("start")
    for number in range(4):
        version = writer.upsert(items_of(np.eye(DIM)[:2], prefix=f"more{number}"))
        assert reader.info().version == version and reader.count() == DIM + 2 * (number + 1)
        writer.merge()
        writer.merge()
        assert reader.info().version == version and reader.count() == DIM + 2 * (number + 1)
        writer.delete([f"more{number}-0000"])
        writer.upsert(items_of(np.eye(DIM)[:1], prefix=f"more{number}"))
    writer.restore("start")
    assert reader.count() == DIM and reader.get(["more0-0000"]) == [None]
    writer.delete(["item-0000"])
    assert reader.get(["item-0000"]) == [None]
    writer.close()
    assert reader.count() == DIM - 1
    reader.close()


def test_an_iteration_stays_in_its_version(folder):
    writer, reader = FaissStore.open(folder, writable=True), FaissStore.open(folder)
    for store in (writer, reader):
        parts = store.items(batch=3)
        seen = next(parts)
        writer.delete([f"item-{i:04}" for i in range(DIM)])
        for _ in range(3):
            writer.merge()
        seen += [item for part in parts for item in part]
        assert [item.id for item in seen] == [f"item-{i:04}" for i in range(DIM)]
        writer.upsert(items_of(np.eye(DIM)))
    writer.close()
    reader.close()


def test_background_merges_come_by_themselves(tmp_path, small_merges):
    store = FaissStore.create(tmp_path / "store", dim=DIM, model={})
    rng = np.random.default_rng(0)
    for number in range(30):
        store.upsert(items_of(rng.standard_normal((50, DIM)), prefix=f"p{number:02}"))
    store.close()
    store = FaissStore.open(tmp_path / "store")
    assert store.count() == 1500 and not (tmp_path / "store" / "base-000001").exists()
    store.close()


@pytest.mark.parametrize("bytes_allowed", [0, 600, 3000, 20_000, 60_000])
def test_a_full_disk_is_one_line_and_nothing_is_lost(folder, bytes_allowed):
    store = FaissStore.open(folder, writable=True)
    before = store.count()
    more = items_of(np.random.default_rng(0).standard_normal((500, DIM)), prefix="more")
    more = [Item(id=i.id, vector=i.vector, thumbnail=b"x" * 90) for i in more]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_allowed, hard))  # files end here: EFBIG
    try:
        for act in (lambda: store.upsert(more), store.merge, lambda: store.snapshot("full")):
            try:
                act()
            except StoreError as error:
                assert "\n" not in str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = store.count()
    assert found in (before, before + 500)
    try:
        store.delete(["item-0000"])
        found -= 1
    except StoreError as error:
        assert "open it again" in str(error)
    store.close()
    store = FaissStore.open(folder, writable=True)
    assert store.count() == found
    store.upsert(more)
    store.merge()
    assert store.count() >= 500 + DIM - 1
    store.close()


def test_what_is_no_index_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for name in ("none", "file", "folder"):
        with pytest.raises(StoreError, match="no index"):
            FaissStore.open(tmp_path / name)
    (tmp_path / "folder" / "x").touch()
    for name in ("file", "folder"):
        with pytest.raises(StoreError, match="is there already"):
            FaissStore.create(tmp_path / name, dim=2, model={})
    with pytest.raises(StoreError, match="cannot be created"):
        FaissStore.create(tmp_path / "file" / "x", dim=2, model={})
    with pytest.raises(ValueError, match="width"):
        FaissStore.create(tmp_path / "new", dim=0, model={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_store_can_be_made_in_an_empty_folder_and_moved(tmp_path):
    (tmp_path / "empty").mkdir()
    store = FaissStore.create(tmp_path / "empty", dim=DIM, model={})
    store.upsert(items_of(np.eye(DIM)))
    store.snapshot("one")
    store.close()
    (tmp_path / "empty").rename(tmp_path / "moved")
    store = FaissStore.open(tmp_path / "moved", writable=True)
    store.restore("one")
    assert store.count() == DIM
    store.close()


def test_a_snapshot_takes_no_room_of_its_own(folder):
    store = FaissStore.open(folder, writable=True)
    store.merge()
    store.snapshot("one")
    (vectors,) = folder.glob("snapshots/one/base-*/vectors.npy")
    assert vectors.stat().st_nlink == 2
    store.upsert(items_of(np.eye(DIM)[:3], prefix="later"))
    store.restore("one")
    store.close()
    store = FaissStore.open(folder, writable=True)  # must not write into the log of the snapshot
    store.upsert(items_of(np.eye(DIM)[:3], prefix="later"))
    store.restore("one")
    assert store.count() == DIM
    store.close()


def test_a_damaged_thumbnail_is_not_shown(tmp_path):
    store = FaissStore.create(tmp_path / "store", dim=2, model={})
    for id in ("a", "b"):
        store.upsert([Item(id=id, vector=np.ones(2, np.float32), thumbnail=id.encode() * 50)])
    store.verify()
    (pack,) = (tmp_path / "store").glob("thumbnails-*")
    pack.write_bytes(pack.read_bytes()[:70])
    assert store.thumbnail("a") == b"a" * 50
    with pytest.raises(StoreError, match="thumbnail"):
        store.thumbnail("b")
    with pytest.raises(StoreError, match="item 'b'"):
        store.verify()
    store.close()
