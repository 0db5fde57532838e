"""The power goes at any moment: what a command had said is there, and nothing wrong is read."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dino_app.errors import StoreError
from dino_app.indexing.copying import copy_index
from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import Item
from dino_infer.errors import DataError
from dino_infer.features.files import read_features
from dino_infer.features.job import embed_to_file, embed_to_folder
from dino_infer.features.output import Output
from dino_infer.features.shards import Share, merge_shares
from dino_infer.features.writer import FeatureWriter
from dino_infer.files import whole_folder
from dino_infer.images.read import ImageFailure
from dino_infer.sources.image_list import ImageList, list_images
from dino_train.data.failures import FailureLog, listed_failures
from dino_train.records.metrics import METRICS, MetricsLog, read_rows
from dino_train.records.run_folder import enter_run_folder, hold_run_folder, saved_settings
from dino_train.records.snapshots import latest_snapshot, prune_snapshots, save_snapshot
from tests.faults.power_cuts import PoweredFolder
from tests.infer.pixel_engine import PixelEngine, contents, pixel_embedder

FEWEST_STATES = 12
DIM = 8
EVERY = pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
"""Which of the states left by cuts are gone on with; all of them are read."""


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def embed(images: ImageList, out: Path, *, seed: int = 0, **options: object) -> PixelEngine:
    engine = PixelEngine(seed=seed)
    output = Output(commit_every_s=0.0, **options)
    if out.suffix:
        embed_to_file(pixel_embedder(engine), images, out, output=output)
    else:
        embed_to_folder(pixel_embedder(engine), images, out, partition_size=4, output=output)
    return engine


def matrices(folder: Path) -> list[bytes]:
    """What readers are given of each set in a folder, as far as they take it."""
    found = []
    for path in sorted(folder.rglob("feats.npy")):
        with contextlib.suppress(DataError):
            found.append(bytes(read_features(path).matrix.tobytes()))
    return found


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["new", "overwrite", "update", "partitions", "merge"])
def test_features_go_on_from_the_last_commit(
    kind: str, every: int, image_folder, disk: Path, monkeypatch
):
    images = list_images(image_folder(count=8, size=16))
    out = disk / ("set" if kind == "partitions" else "feats.npy")
    options = {kind: True} if kind in ("overwrite", "update") else {}
    if kind == "overwrite":  # the same shape: only the content tells old from new
        embed(images, out, seed=1)
    if kind == "update":
        embed(images.select(range(0, 8, 2)), out)
    if kind == "merge":
        for index in range(2):
            embed_to_file(pixel_embedder(), images, out, share=Share(index, 2))
    before = matrices(disk)
    power, commit = PoweredFolder(disk), FeatureWriter.commit

    def noted(writer: FeatureWriter) -> None:
        commit(writer)
        power.note = writer.done.images

    monkeypatch.setattr(FeatureWriter, "commit", noted)
    with power.watched():
        if kind == "merge":
            merge_shares(out, overwrite=False)
        else:
            embed(images, out, **options)
        power.note = "finished"
    monkeypatch.undo()
    whole, states = contents(disk), power.states()
    assert len(states) > FEWEST_STATES
    after = matrices(disk)
    shutil.rmtree(disk)
    again = options if kind == "overwrite" else {"resume": True, **options}
    for number, state in enumerate(states):
        state.lay_out(disk)
        found = matrices(disk)
        assert found in ([], before, after)
        if state.note == "finished" and kind != "partitions":
            assert found == after
        if number % every:
            continue
        if kind == "merge":
            if state.note != "finished":
                merge_shares(out, overwrite=True)
        else:
            seen = embed(images, out, **again).seen
            if kind == "new" and isinstance(state.note, int):
                assert seen <= len(images) - state.note
            if state.note == "finished" and kind != "overwrite":
                assert seen == 0
        left = {name: data for name, data in contents(disk).items() if "lock" not in name}
        assert left == whole


def test_a_run_goes_on_from_the_last_snapshot_that_was_told(disk: Path):
    run, power = disk / "runs" / "photos", PoweredFolder(disk)
    with power.watched(), hold_run_folder(run), begun(run) as log:
        for step in range(1, 4):
            log.append({"step": step - 1, "loss_nats": step / 7})
            log.sync()
            save_snapshot(run, {"step": step, "t": torch.full((600,), step)}, step=step)
            power.note = step
            prune_snapshots(run, step=step, keep=1, keep_every_steps=0)
    states = power.states()
    assert len(states) > FEWEST_STATES
    for state in states:
        state.lay_out(disk)
        found = latest_snapshot(run) if run.exists() else None
        assert (found[0]["step"] if found else 0) in (state.note or 0, (state.note or 0) + 1)
        if found:
            assert (found[0]["t"] == found[0]["step"]).all()
            assert saved_settings(run) == {"optim": {"epochs": 3}}
            rows = [row for row in read_rows(run / METRICS) if row["step"] < found[0]["step"]]
            assert rows == [{"step": s, "loss_nats": (s + 1) / 7} for s in range(len(rows))]
            assert len(rows) == found[0]["step"]
        with hold_run_folder(run):  # and it can be written again
            enter_run_folder(run, RECORD)


RECORD = {
    "config": {"optim": {"epochs": 3}},
    "data": {"fingerprint": "abc", "images": 3, "sources": ["x"]},
    "init_from": None,
}


def begun(run: Path) -> MetricsLog:
    enter_run_folder(run, RECORD)
    return MetricsLog(run, start_step=0, tensorboard=False)


def test_listed_failures_stay_listed(disk: Path):
    path, power = disk / "failures.jsonl", PoweredFolder(disk)
    with power.watched():
        log = FailureLog(path, num_images=9, max_bad_share=1)
        for number in range(3):
            log.add([ImageFailure(f"{number}.png", "corrupt", "x" * 600)])
            power.note = number + 1
    for state in power.states():
        state.lay_out(disk)
        listed = [f"{number}.png" for number in range(3)]
        assert listed_failures(path) in (listed[: state.note or 0], listed[: (state.note or 0) + 1])


@pytest.mark.parametrize("parents", ["", "a/b/"])
def test_a_folder_of_files_is_whole(disk: Path, parents: str):
    power, target = PoweredFolder(disk), disk / f"{parents}model"
    with power.watched():
        with whole_folder(target) as folder:
            (folder / "config.json").write_bytes(b"x" * 700)
            (folder / "shards").mkdir()
            (folder / "shards" / "1").write_bytes(b"y" * 700)
        power.note = "done"
    for state in power.states():
        state.lay_out(disk)
        if state.note or target.exists():
            assert contents(target) == {"config.json": b"x" * 700, "shards/1": b"y" * 700}


def items(numbers: range) -> list[Item]:
    return [
        Item(id=f"{i:03}", vector=np.eye(DIM, dtype=np.float32)[i % DIM], metadata={"n": i},
             thumbnail=b"%d" % i * 99)
        for i in numbers
    ]  # fmt: skip


def held_by(store: FaissStore) -> list[tuple]:
    found = (item for part in store.items() for item in part)
    return [(item.id, item.vector.tobytes(), item.metadata, item.thumbnail) for item in found]


def state_of(folder: Path) -> list[tuple] | None:
    try:
        store = FaissStore.open(folder)
    except StoreError:
        return None
    found = held_by(store)
    store.close()
    return found


def steps_of_an_index() -> dict[str, Callable[[FaissStore], object]]:
    return {
        "upsert": lambda store: store.upsert(items(range(8, 20))),
        "delete": lambda store: store.delete(["001", "003"]),
        "merge": lambda store: store.merge(),
        "snapshot": lambda store: store.snapshot("late"),
        "restore": lambda store: store.restore("early"),
    }


@EVERY
@pytest.mark.parametrize("work", list(steps_of_an_index()))
def test_an_index_is_as_before_or_as_after(work: str, every: int, disk: Path):
    folder = disk / "index"
    store = FaissStore.create(folder, dim=DIM, model={})
    store.upsert(items(range(4)))
    store.snapshot("early")
    store.merge()
    store.upsert(items(range(2, 10)))
    before, power = held_by(store), PoweredFolder(disk)
    with power.watched():
        steps_of_an_index()[work](store)
        power.note = "done"
        after = held_by(store)
    store.close()
    shutil.rmtree(disk)
    for number, state in enumerate(power.states()):
        state.lay_out(disk)
        wanted = [after] if state.note else [before, after]
        assert state_of(folder) in wanted
        if number % every:
            continue
        store = FaissStore.open(folder, writable=True)
        assert held_by(store) in wanted
        assert "late" in store.snapshots() or not (work == "snapshot" and state.note)
        store.upsert(items(range(30, 33)))
        store.merge()
        store.verify()
        for name in store.snapshots():
            store.restore(name)
            assert len(held_by(store)) == (4 if name == "early" else len(before))
        store.close()


@pytest.mark.parametrize("way", ["create", "copy"])
def test_a_new_index_is_there_once_it_was_said(way: str, disk: Path, tmp_path: Path):
    source = FaissStore.create(tmp_path / "source", dim=DIM, model={})
    source.upsert(items(range(12)))
    expected = held_by(source) if way == "copy" else []
    folder, power = disk / "indexes" / "photos", PoweredFolder(disk)
    with power.watched():
        if way == "copy":
            copy_index(source, str(folder))
        else:
            FaissStore.create(folder, dim=DIM, model={}).close()
        power.note = "done"
    for state in power.states():
        state.lay_out(disk)
        if state.note or folder.exists():
            assert state_of(folder) == expected
    source.close()
