"""Inputs that change or vanish while a command is at work with them."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_app.errors import StoreError
from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import Item
from dino_infer.features.job import embed_to_file
from dino_infer.features.table import table_rows
from dino_infer.sources.image_list import list_images
from dino_train import train
from dino_train.config import HeadConfig, Machine, ModelConfig, OptimConfig, RunConfig, TrainConfig
from dino_train.crops.spec import CropSpec
from tests.infer.pixel_engine import pixel_embedder

SMALL = TrainConfig(
    model=ModelConfig(arch="vit_micro", patch_size=16, drop_path_rate=0),
    head=HeadConfig(out_dim=8, hidden_dim=8, bottleneck_dim=4),
    crops=CropSpec(global_crops_size=16, local_crops_size=16, local_crops_number=0),
    optim=OptimConfig(
        epochs=1, batch_size=4, warmup_epochs=0, freeze_last_layer_epochs=0, precision="fp32"
    ),
    run=RunConfig(max_bad_share=0.5),
)


def disturb(folder: Path) -> list[str]:
    """Delete one image, cut the next, replace the third, make the fourth a folder."""
    gone, cut, other, odd = sorted(folder.rglob("*.png"))[:4]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:60])
    Image.new("RGB", (20, 20), (9, 200, 30)).save(other)
    odd.unlink()
    odd.mkdir()
    return [path.relative_to(folder).as_posix() for path in (gone, cut, other, odd)]


def test_images_that_vanish_or_change_after_they_were_listed(image_folder, tmp_path: Path):
    folder, out = image_folder(count=8, size=16), tmp_path / "feats.npy"
    images = list_images(folder)
    gone, cut, other, odd = disturb(folder)
    embed_to_file(pixel_embedder(), images, out)
    lines = (tmp_path / "feats.failed.jsonl").read_text().splitlines()
    assert [(f["path"], f["kind"]) for f in map(json.loads, lines)] == [
        (gone, "missing"), (cut, "corrupt"), (odd, "missing"),
    ]  # fmt: skip
    rows = {row.path: row.file for row in table_rows(out.with_suffix(".parquet"))}
    assert rows.keys() == {images.name(i) for i in range(8)} - {gone, cut, odd}
    # A row tells of the bytes that were embedded, not of those that were listed.
    assert rows[other].sha256 == hashlib.sha256((folder / other).read_bytes()).hexdigest()
    assert len(np.load(out)) == 5


def test_training_goes_on_with_the_images_that_are_left(image_folder, tmp_path: Path):
    folder = image_folder(count=12, size=24)
    images = list_images(folder)
    gone, cut, _, odd = disturb(folder)
    result = train(
        SMALL, data=[folder], out=tmp_path / "run", images=images, tensorboard=False,
        machine=Machine(device="cpu", workers=0),
    )  # fmt: skip
    assert result.finished
    lines = (tmp_path / "run" / "failures.jsonl").read_text().splitlines()
    listed = {json.loads(line)["path"] for line in lines}
    assert listed == {str(folder / name) for name in (gone, cut, odd)}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    store = FaissStore.create(tmp_path / "index", dim=2, model={})
    store.upsert(items("abc"))
    store.close()
    return tmp_path / "index"


def items(ids: str) -> list[Item]:
    return [Item(id=id, vector=np.ones(2, np.float32)) for id in ids]


def test_an_index_that_is_deleted_under_its_reader_answers_on(index: Path):
    store = FaissStore.open(index)
    shutil.rmtree(index)
    assert store.count() == 3
    assert [hit.id for hit in store.search(np.ones((1, 2), np.float32), k=3).hits[0]] == [*"abc"]
    store.close()


def test_nothing_is_acknowledged_into_an_index_that_was_deleted(index: Path):
    store = FaissStore.open(index, writable=True)
    shutil.rmtree(index)
    for write in (lambda: store.upsert(items("d")), lambda: store.delete(["a"])):
        with pytest.raises(StoreError, match="was deleted"):
            write()
    assert store.count() == 3
    store.close()


def test_an_index_that_is_moved_takes_its_writer_along(index: Path):
    store = FaissStore.open(index, writable=True)
    moved = index.rename(index.with_name("moved"))
    store.upsert(items("d"))
    store.close()
    store = FaissStore.open(moved)
    assert store.count() == 4
    store.close()
