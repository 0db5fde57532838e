"""Disks that fail, are full, slow, or cannot be written: one line, and nothing is lost."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from dino_app.cli import index
from dino_app.errors import StoreError
from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import Item
from dino_export import cli as export
from dino_infer.cli import attention, embed, eval as evaluate
from dino_infer.errors import RunError
from dino_infer.features.job import embed_to_file
from dino_infer.features.output import Output
from dino_infer.networks.build import build_backbone
from dino_infer.sources.image_list import list_images
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from dino_train import cli as train
from dino_train.records.snapshots import latest_snapshot, save_snapshot
from tests.faults.refusing import full_disk, refused_step, slow_disk
from tests.infer.pixel_engine import contents, pixel_embedder
from tests.train.data.test_loader import assert_same_batches, batches

DIM = 8
MANY = 1000  # steps: more than any of these works takes
SLOW_S = 0.01


@pytest.fixture
def images(image_folder):
    return list_images(image_folder(count=8, size=16))


def embedded(images, out: Path, **options: object) -> None:
    out.parent.mkdir(exist_ok=True)
    output = Output(commit_every_s=0.0, **options)
    embed_to_file(pixel_embedder(), images, out, output=output)


def test_features_outlive_a_failure_of_any_step(images, tmp_path: Path):
    embedded(images, tmp_path / "whole" / "feats.npy")
    whole, out = contents(tmp_path / "whole"), tmp_path / "out" / "feats.npy"
    for number in range(MANY):
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        with refused_step(number, "EIO" if number % 2 else "ENOSPC") as refusal:
            try:
                embedded(images, out)
            except OSError as failed:
                assert failed.strerror
            else:
                assert not refusal.happened or contents(out.parent) == whole
        if not refusal.happened:
            break
        embedded(images, out, resume=True)
        assert contents(out.parent) == whole
    assert 15 < number < MANY


def items(numbers: range) -> list[Item]:
    eye = np.eye(DIM, dtype=np.float32)
    return [Item(id=f"{i:03}", vector=eye[i % DIM], thumbnail=b"x" * 99) for i in numbers]


def held_by(store: FaissStore) -> list[tuple[str, bytes]]:
    return [(item.id, item.vector.tobytes()) for part in store.items() for item in part]


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """An index with a base, a log and a snapshot."""
    store = FaissStore.create(tmp_path / "start", dim=DIM, model={})
    store.upsert(items(range(4)))
    store.snapshot("early")
    store.merge()
    store.upsert(items(range(2, 10)))
    store.close()
    return tmp_path / "start"


WORKS = {
    "upsert": lambda store: store.upsert(items(range(8, 20))),
    "delete": lambda store: store.delete(["001", "003"]),
    "merge": lambda store: store.merge(),
    "snapshot": lambda store: store.snapshot("late"),
    "restore": lambda store: store.restore("early"),
}


@pytest.mark.parametrize("work", list(WORKS))
def test_an_index_outlives_a_failure_of_any_step(started: Path, tmp_path: Path, work: str):
    def opened(folder: Path) -> FaissStore:
        shutil.rmtree(folder, ignore_errors=True)
        return FaissStore.open(shutil.copytree(started, folder), writable=True)

    store = opened(tmp_path / "whole")
    before = held_by(store)
    WORKS[work](store)
    after = held_by(store)
    store.close()
    for number in range(MANY):
        store = opened(tmp_path / "index")
        with refused_step(number, "EIO") as refusal:
            try:
                WORKS[work](store)
            except StoreError as failed:
                assert "\n" not in str(failed)
                told = before
            else:
                told = after
        assert held_by(store) in (before, after)  # searched on, whatever happened
        store.close()
        store = FaissStore.open(tmp_path / "index", writable=True)
        assert held_by(store) == told or (told == before and held_by(store) == after)
        store.upsert(items(range(30, 31)))
        assert len(held_by(store)) in (len(before) + 1, len(after) + 1)
        store.close()
        if not refusal.happened:
            break
    assert 1 < number < MANY


def test_a_snapshot_whose_sync_fails_is_none(tmp_path: Path):
    good = save_snapshot(tmp_path, {"step": 1}, step=1)
    with refused_step(1, "EIO"), pytest.raises(RunError, match="last good one is .*00000001"):
        save_snapshot(tmp_path, {"step": 2}, step=2)
    assert list(good.parent.iterdir()) == [good]
    assert latest_snapshot(tmp_path)[0] == {"step": 1}


def test_images_that_the_disk_does_not_give_are_listed(image_folder, tmp_path: Path, monkeypatch):
    folder, read, begun = image_folder(count=8, size=16), os.read, os.open

    def refusing(path: object, *args: object, **options: object) -> int:
        descriptor = begun(path, *args, **options)
        if os.fsdecode(path).endswith("003.png"):
            bad.add(descriptor)
        return descriptor

    def failing(descriptor: int, size: int) -> bytes:
        if descriptor in bad:
            bad.remove(descriptor)
            raise OSError(5, os.strerror(5))
        return read(descriptor, size)

    bad: set[int] = set()
    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(os, "read", failing)
    embedded(list_images(folder), tmp_path / "feats.npy")
    assert "Input/output error" in (tmp_path / "feats.failed.jsonl").read_text()
    assert len(np.load(tmp_path / "feats.npy")) == 7


def test_a_slow_disk_changes_nothing(images, tmp_path: Path):
    embedded(images, tmp_path / "whole" / "feats.npy")
    with slow_disk(SLOW_S):
        embedded(images, tmp_path / "out" / "feats.npy")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_training_gets_the_same_batches_from_a_slow_disk(images):
    with slow_disk(SLOW_S):
        start_s = time.monotonic()
        slow = batches(images)
        took_s = time.monotonic() - start_s
    assert_same_batches(slow, batches(images))
    assert took_s > SLOW_S * len(images)  # it was slow indeed


def test_searches_do_not_wait_for_a_slow_write(started: Path):
    store = FaissStore.open(started, writable=True)
    writing = threading.Thread(target=lambda: store.upsert(items(range(8, 20))))
    with slow_disk(0.5):
        writing.start()
        start_s, answers = time.monotonic(), 0
        while writing.is_alive() and time.monotonic() - start_s < 20:
            (hits,) = store.search(np.eye(DIM, dtype=np.float32)[:1], k=3).hits
            assert len(hits) == 3
            answers += 1
        writing.join()
    assert answers > 5 and store.count() == 20
    store.close()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "micro.safetensors"
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=16)
    save_checkpoint(path, build_backbone("vit_micro", patch_size=8, image_size=16), info)
    return path


def commands(images: Path, weights: Path, out: Path) -> dict[str, tuple[object, list[str]]]:
    given = ["--weights", str(weights), "--device", "cpu"]
    sizes = ["--size", "32"]
    return {
        "dino-embed": (embed.main, [str(images), "-o", str(out / "feats.npy"), *given, *sizes]),
        "dino-attention": (
            attention.main, [str(images), "-o", str(out / "maps"), *given, "--size", "32"]
        ),
        "dino-eval": (
            evaluate.main,
            ["knn", "--train", str(images), "--val", str(images), "-o", str(out / "report"),
             *given, *sizes, "--k", "1"],
        ),
        "dino-export": (
            export.main, [str(weights), "--to", "safetensors", "-o", str(out / "w.safetensors")]
        ),
        "dino-index": (
            index.main,
            ["build", str(images), "-o", str(out / "photos.index"), *given, *sizes],
        ),
        "dino-train": (
            train.main,
            ["tiny_cpu", "--data", str(images), "--out", str(out / "run"), "--device", "cpu",
             "--no-tensorboard", "--workers", "0", "--optim.batch-size", "4"],
        ),
    }  # fmt: skip


NAMES = list(commands(Path(), Path(), Path()))


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_line(name: str, image_folder, weights: Path, tmp_path: Path, capsys):
    (tmp_path / "out").mkdir()
    main, args = commands(image_folder(count=6), weights, tmp_path / "out")[name]
    with full_disk(200):
        code = main(args)
    said = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert code == 1 and len(said) == 1, said
    assert said[0].startswith(f"{name}: error: ")
    left = [path for path in (tmp_path / "out").rglob("*dino-tmp*")]
    assert not left


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that not even root can write to."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("root writes everywhere, and nothing can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_written_is_one_line(
    name: str, read_only: Path, image_folder, weights: Path, capsys
):
    main, args = commands(image_folder(count=6), weights, read_only)[name]
    assert main(args) == 1
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith(f"{name}: error: ")]) == 1, said
    assert "Traceback" not in "\n".join(said)
    assert not list(read_only.iterdir())
