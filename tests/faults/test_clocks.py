"""The clock of the machine jumps: nothing that is kept depends on it."""

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from dino_app.errors import StoreError
from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import Item
from dino_infer.features.files import read_features
from dino_infer.features.job import embed_to_file
from dino_infer.features.output import Output
from dino_infer.sources.image_list import list_images
from dino_train.cli import main as train
from tests.infer.pixel_engine import contents, pixel_embedder
from tests.train.test_finished_runs import TINY, content

YEAR_S = 3.2e7
ONE_EPOCH = ("--optim.epochs", "1")


@pytest.fixture
def jumping_clock(monkeypatch) -> None:
    """Let the time of day be anything whenever it is asked for; monotonic clocks go on."""
    moments = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: moments.uniform(0, 2**31))
    monkeypatch.setattr(time, "time_ns", lambda: moments.randint(0, 2**61))


def test_features_are_the_same_bytes(image_folder, tmp_path: Path, request):
    images = list_images(image_folder(count=8, size=16))
    for name in ("steady", "jumping"):
        (tmp_path / name).mkdir()
        embed_to_file(pixel_embedder(), images, tmp_path / name / "feats.npy")
        request.getfixturevalue("jumping_clock")
    assert contents(tmp_path / "steady") == contents(tmp_path / "jumping")


def test_an_image_that_was_changed_while_the_clock_was_back_is_embedded_again(
    image_folder, tmp_path: Path
):
    folder, out = image_folder(count=6, size=16), tmp_path / "feats.npy"
    embed_to_file(pixel_embedder(), list_images(folder), out)
    before = read_features(out).matrix.copy()
    first, second = sorted(folder.rglob("*.png"))[:2]
    data = bytearray(second.read_bytes())
    first.write_bytes(data)
    os.utime(first, (0, 0))  # earlier than anything that the set has seen
    embed_to_file(pixel_embedder(), list_images(folder), out, output=Output(update=True))
    after = read_features(out).matrix
    assert (after[0] == after[1]).all() and (before[0] != before[1]).any()
    assert (after[1:] == before[1:]).all()


def test_the_last_good_snapshot_is_the_last_that_was_made(tmp_path: Path):
    store = FaissStore.create(tmp_path / "index", dim=2, model={})
    for number, name in enumerate(("first", "second", "third")):
        store.upsert([Item(id=name, vector=np.ones(2, np.float32))])
        store.snapshot(name)
        moment = time.time() - number * YEAR_S  # the clock was put back in between
        os.utime(tmp_path / "index" / "snapshots" / name / "HEAD", (moment, moment))
    store.close()
    (tmp_path / "index" / "HEAD").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="the last good snapshot is 'third'"):
        FaissStore.open(tmp_path / "index")


def test_a_run_is_the_same(image_folder, tmp_path: Path, request):
    data = image_folder(count=8, size=24)
    for name in ("steady", "jumping"):
        assert train([*TINY, *ONE_EPOCH, "--data", str(data), "--out", str(tmp_path / name)]) == 0
        request.getfixturevalue("jumping_clock")
    assert content(tmp_path / "steady") == content(tmp_path / "jumping")
