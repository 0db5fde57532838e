"""Stored files that were changed: refused, made again, or without effect; never served."""

import random
import shutil

import numpy as np
import pytest

from dino_app.errors import StoreError
from dino_app.store.faiss_store import FaissStore
from dino_app.store.faiss_store.disk.head import head_of
from dino_app.store.interface import Item, SearchParams
from tests.app.store.faiss_store.killed_writers import contents

DIM, ROWS, K = 16, 200, 5
FEW, MANY = 40, 220
FEWEST_REFUSED = 0.5  # of all mutations; the others change what is not read, or is made again


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store with everything in it, its items, and what a search finds."""
    folder = tmp_path_factory.mktemp("original") / "store"
    store = FaissStore.create(folder, dim=DIM, model={"name": "tiny"}, index="IVF4,Flat")
    rng = np.random.default_rng(0)

    def add(start, count):
        for i in range(start, start + count):
            vector = rng.standard_normal(DIM).astype(np.float32)
            metadata = {"n": i, "label": f"label {i % 7}"}
            picture = f"picture {i}".encode() * 5
            yield Item(id=f"id-{i}", vector=vector, metadata=metadata, thumbnail=picture)

    store.upsert(list(add(0, 100)))
    store.merge()
    store.upsert(list(add(100, ROWS - 100)))
    store.snapshot("good")
    store.merge()
    store.upsert(list(add(50, 20)))
    store.delete([f"id-{i}" for i in range(0, 60, 2)])
    store.upsert(list(add(900, 3)))
    assert store.info().index == "IVF4,Flat"
    found = contents(store), hits(store)
    store.close()
    return folder, *found


def hits(store):
    queries = np.random.default_rng(1).standard_normal((5, DIM))
    found = store.search(queries, k=K, params=SearchParams(exact=True), include=["metadata"])
    store.search(queries, k=K)
    return found.hits


def files_of(folder):
    """What the present state is made of."""
    head = head_of((folder / "HEAD").read_bytes())
    logs = [path for path in folder.glob("log-*") if path.name >= f"log-{head.log:06d}"]
    pictures = list(folder.glob("thumbnails-*"))
    return sorted([*(folder / head.base).iterdir(), *logs, *pictures, folder / "HEAD"])


def mutate(folder, number):
    """Change something; returns what, or None if nothing has changed."""
    rng = random.Random(number)
    files = files_of(folder)
    path = files[number % len(files)]
    data = path.read_bytes()
    kind = rng.choice(["cut", "flip", "flip", "zero", "swap", "older", "remove", "grow", "double"])
    match kind:
        case "cut":
            changed = data[: rng.randrange(len(data) + 1)]
        case "flip":
            changed = bytearray(data)
            if data:
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "zero":
            start = rng.randrange(len(data) + 1)
            changed = data[:start] + bytes(len(data[start : start + 64])) + data[start + 64 :]
        case "swap":
            other = rng.choice(files)
            changed = other.read_bytes()
            other.write_bytes(data)
        case "older":  # the file of the snapshot in place of the present one
            older = sorted((folder / "snapshots" / "good").rglob(path.name))
            changed = older[0].read_bytes() if older else data[::-1]
        case "remove":
            path.unlink()
            return f"{kind} {path.name}"
        case "grow":
            changed = data + rng.randbytes(100)
        case _:
            changed = data + data
    path.write_bytes(bytes(changed))
    return None if bytes(changed) == data else f"{kind} {path.name}"


def damage(path):
    """Shorten a file of which a snapshot has a hard link, but not that one."""
    data = path.read_bytes()[:100]
    path.unlink()
    path.write_bytes(data)


def outcome(folder, expected, expected_hits, *, writable):
    """What opening leads to; fails if wrong data is served."""
    try:
        store = FaissStore.open(folder, writable=writable)
    except StoreError as error:
        assert "\n" not in str(error)
        return "refused", str(error)
    try:
        assert hits(store) == expected_hits
        found = contents(store)
    except StoreError as error:  # thumbnails are checked when they are read
        assert "thumbnail" in str(error)
        return "refused", str(error)
    finally:
        store.close()
    assert found == expected
    return "served", ""


def run_mutations(original, tmp_path, numbers):
    folder, expected, expected_hits = original
    outcomes, refusals = [], []
    for number in numbers:
        copy = tmp_path / str(number)
        # What restores it has another inode here, as a mutation must not reach the snapshot.
        shutil.copytree(folder, copy)
        if mutate(copy, number) is not None:
            # A reader first: a writer may repair.
            for writable in (False, True):
                result, reason = outcome(copy, expected, expected_hits, writable=writable)
                outcomes.append(result)
                refusals.append(reason)
        shutil.rmtree(copy)
    assert outcomes.count("refused") > FEWEST_REFUSED * len(outcomes)
    assert "served" in outcomes  # an index made again, a HEAD with its other slot
    assert any("the last good snapshot is 'good'" in reason for reason in refusals)


def test_changed_files_are_never_served(original, tmp_path):
    run_mutations(original, tmp_path, range(FEW))


@pytest.mark.slow
def test_many_changed_files_are_never_served(original, tmp_path):
    run_mutations(original, tmp_path, range(FEW, FEW + MANY))


def test_a_damaged_index_is_made_again_and_kept(original, tmp_path, caplog):
    folder, expected, expected_hits = original
    copy = shutil.copytree(folder, tmp_path / "copy")
    (index,) = sorted(copy.glob("base-*/index.faiss"))[-1:]
    index.write_bytes(index.read_bytes()[:-10])
    store = FaissStore.open(copy, writable=True)
    assert "making it again" in caplog.text
    assert store.info().index == "IVF4,Flat" and hits(store) == expected_hits
    store.close()
    caplog.clear()
    store = FaissStore.open(copy)
    assert not caplog.text and contents(store) == expected
    store.close()


def test_a_rolled_back_store_is_refused(original, tmp_path):
    """A whole HEAD of earlier, with files that are all in order."""
    folder = original[0]
    copy = shutil.copytree(folder, tmp_path / "copy")
    store = FaissStore.open(copy, writable=True)
    early = (copy / "HEAD").read_bytes()
    for number in range(3):
        store.delete([f"id-{number + 101}"])
    store.close()
    (copy / "HEAD").write_bytes(early)
    with pytest.raises(StoreError, match="HEAD is older than the logs"):
        FaissStore.open(copy)


def test_a_damaged_store_goes_back_to_its_snapshot(original, tmp_path):
    copy = shutil.copytree(original[0], tmp_path / "copy")
    expected = FaissStore.open(copy, writable=True)
    expected.restore("good")
    wanted = contents(expected)
    expected.close()
    damage(sorted(copy.glob("base-*/vectors.npy"))[-1])
    for broken in ("HEAD", None):
        if broken:
            (copy / broken).write_bytes(b"")
        with pytest.raises(StoreError):
            FaissStore.open(copy, writable=True)
        store = FaissStore.recover(copy, "good")
        assert contents(store) == wanted
        store.upsert([Item(id="new", vector=np.ones(DIM, np.float32))])
        store.close()
        store = FaissStore.open(copy)
        assert store.count() == len(wanted) + 1
        store.close()
        damage(sorted(copy.glob("base-*/vectors.npy"))[-1])


def test_a_damaged_snapshot_is_refused_and_changes_nothing(original, tmp_path):
    folder, expected, _ = original
    copy = shutil.copytree(folder, tmp_path / "copy")
    snapshot = copy / "snapshots" / "good"
    for name in ("HEAD", "base-*/items.sqlite", "log-*"):
        (path, *_) = sorted(snapshot.glob(name))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 3])
        store = FaissStore.open(copy, writable=True)
        with pytest.raises(StoreError, match="snapshot 'good' is damaged"):
            store.restore("good")
        assert contents(store) == expected
        store.close()
        path.write_bytes(data)


def test_a_torn_record_is_dropped_and_a_whole_one_counts(tmp_path):
    folder = tmp_path / "store"
    store = FaissStore.create(folder, dim=2, model={})
    item = Item(id="a", vector=np.ones(2, np.float32), metadata={"n": 1})
    store.upsert([item])
    store.close()
    log, head = folder / "log-000001", (folder / "HEAD").read_bytes()
    first = log.stat().st_size
    store = FaissStore.open(folder, writable=True)
    store.upsert([Item(id="b", vector=np.ones(2, np.float32))])
    store.close()
    second = log.read_bytes()
    for size in [*range(first, len(second), 7), len(second) - 1, len(second)]:
        log.write_bytes(second[:size])
        (folder / "HEAD").write_bytes(head)  # as before the acknowledgement
        store = FaissStore.open(folder, writable=True)
        assert store.count() == (2 if size == len(second) else 1)
        store.upsert([Item(id="c", vector=np.ones(2, np.float32))])
        store.close()
        store = FaissStore.open(folder)
        assert store.get(["c"])[0] is not None
        store.close()
        log.write_bytes(second[:first])
