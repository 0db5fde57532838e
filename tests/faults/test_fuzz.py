"""Damaged and made-up inputs: the documented error in one line, in bounded time and memory."""

import csv
import io
import json
import struct
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dino_app.errors import StoreError
from dino_app.store.faiss_store import FaissStore
from dino_app.store.filters import parsed_filter
from dino_app.store.interface import Item
from dino_infer.errors import DinoError, ImageError
from dino_infer.evaluate.data.label_files import read_label_file
from dino_infer.evaluate.reports.scorecard import read_figures
from dino_infer.features.files import failures_in, read_features
from dino_infer.features.job import embed_to_file
from dino_infer.heads import LinearHead
from dino_infer.images.preprocess import Preprocess
from dino_infer.images.read import image_size, read_image
from dino_infer.networks.build import build_backbone
from dino_infer.sources.image_list import list_images
from dino_infer.weights.checkpoints import load_backbone, save_checkpoint
from dino_infer.weights.files import read_weight_file
from dino_infer.weights.info import CheckpointInfo
from dino_train.config import TrainConfig, as_dict
from dino_train.data.failures import listed_failures
from dino_train.records.metrics import read_rows
from dino_train.records.run_folder import saved_settings
from tests.faults.fuzzing import damaged, fuzz, limits, odd_json
from tests.infer.pixel_engine import pixel_embedder

MAX_PIXELS = 10**6
ONE_LINE = 20_000  # letters that a message may have, with names of thousands


def refused_or(result: Callable[[], Any], kind: type[Exception] = DinoError) -> Any:
    """The result, or None after an error of this kind in one line."""
    try:
        with limits():
            return result()
    except kind as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < ONE_LINE
    return None


def pictures() -> list[bytes]:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    ways = [
        ("JPEG", {"exif": exif}), ("JPEG", {"progressive": True}), ("PNG", {"exif": exif}),
        ("GIF", {}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("AVIF", {}), ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"}), ("PPM", {}),
        ("JPEG2000", {}),
    ]  # fmt: skip
    found = [_encoded(picture, kind, **options) for kind, options in ways]
    found += [_encoded(picture.convert(mode), "PNG") for mode in ("P", "LA", "1", "I;16")]
    return [*found, _encoded(picture.convert("CMYK"), "JPEG")]


def _encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("wanted", [None, (8, 8)])
def test_a_picture_is_read_or_named(wanted: tuple[int, int] | None):
    def check(data: bytes) -> None:
        found = refused_or(lambda: read(data), ImageError)
        size = refused_or(lambda: image_size(data, "x", max_pixels=MAX_PIXELS), ImageError)
        if found is not None:
            assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3
            assert wanted or size == found.shape[:2]

    def read(data: bytes) -> np.ndarray:
        try:
            return read_image(data, path="x", max_pixels=MAX_PIXELS, min_scale_size=wanted)
        except ImageError as error:
            assert "not enough memory" not in error.reason
            raise

    fuzz(check, damaged(pictures()), 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def small_weights() -> bytes:
    """A checkpoint of ours."""
    torch.manual_seed(0)
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=16, step=3, epoch=1.5)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=16)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "weights.safetensors", backbone, info)
        return (Path(folder) / "weights.safetensors").read_bytes()


def test_metadata_of_a_checkpoint_is_taken_or_named(folder: Path):
    weights = small_weights()
    (length,) = struct.unpack("<Q", weights[:8])
    header, body = json.loads(weights[8 : 8 + length]), weights[8 + length :]
    told = json.loads(header["__metadata__"]["dino"])

    def load(header: bytes) -> None:
        path = folder / "odd.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + body)
        refused_or(lambda: load_backbone(path))

    def take(description: bytes) -> None:
        refused_or(lambda: CheckpointInfo.from_metadata(json.loads(description)))

    fuzz(take, odd_json(told).filter(lambda text: text.startswith(b"{")), 80)
    fuzz(load, damaged([json.dumps(header).encode()]), 12)


def test_a_pickled_checkpoint_is_taken_or_named(folder: Path):
    state = {
        "teacher": {"cls_token": torch.ones(1, 1, 4)},
        "args": {"arch": "vit_small"},
        "epoch": 3,
    }
    torch.save(state, folder / "state.pth")
    whole = (folder / "state.pth").read_bytes()

    def load(data: bytes) -> None:
        (folder / "odd.pth").write_bytes(data)
        refused_or(lambda: read_weight_file(folder / "odd.pth"))

    fuzz(load, damaged([whole]), 60)


def test_manifests_and_records_are_taken_or_named(folder: Path, image_folder):
    """Every JSON file that is read back, with odd values and with damaged bytes."""
    embed_to_file(pixel_embedder(), list_images(image_folder(count=3)), folder / "feats.npy")
    run = folder / "run"
    run.mkdir()
    config = {"config": as_dict(TrainConfig()), "init_from": None,
              "data": {"fingerprint": "abc", "images": 3, "sources": ["x"]}}  # fmt: skip
    result = {
        "protocol": "knn", "data": {"images": 3}, "settings": {"k": 20},
        "figures": [{"name": "model", "values": {"top1": 0.5}, "spreads": {"top1": 0.1}}],
    }  # fmt: skip
    row = {"step": 3, "loss_nats": 1.5, "epoch": 0.5}
    failure = {"path": "a.png", "kind": "corrupt", "reason": "damaged"}
    readers: list[tuple[Path, object, Callable[[Path], object]]] = [
        (folder / "feats.json", json.loads((folder / "feats.json").read_bytes()),
         lambda path: read_features(path.with_suffix(".npy"))),
        (run / "config.json", config, lambda path: saved_settings(path.parent)),
        (folder / "result.json", result, read_figures),
        (folder / "scorecard.json", {"results": [result]}, read_figures),
        (folder / "metrics.jsonl", row, read_rows),
        (folder / "failures.jsonl", failure, listed_failures),
        (folder / "feats.failed.jsonl", failure, lambda path: list(failures_in(path))),
        (folder / "filter.json", {"$and": [{"a": {"$in": [1, "x"]}}, {"$not": {"b": True}}]},
         lambda path: parsed_filter(json.loads(path.read_bytes()))),
    ]  # fmt: skip

    for path, original, read in readers:

        def load(data: bytes, path: Path = path, read: Callable = read) -> None:
            path.write_bytes(data + b"\n")
            refused_or(lambda: read(path), ValueError if path.stem == "filter" else DinoError)

        fuzz(load, odd_json(original) | damaged([json.dumps(original).encode()]), 25)


def test_heads_are_taken_or_named(folder: Path):
    made_by = {
        "weights_sha256": "ab" * 32, "feature": "cls", "arch": "vit_micro",
        "preprocess": Preprocess(size=32).as_metadata(),
    }  # fmt: skip
    head = LinearHead(
        weight=np.ones((2, 4), np.float32), bias=np.zeros(2, np.float32), classes=("a", "b"),
        made_by=made_by,
    )  # fmt: skip
    head.save(folder / "head.safetensors")
    whole = (folder / "head.safetensors").read_bytes()

    def load(data: bytes) -> None:
        (folder / "odd.safetensors").write_bytes(data)
        found = refused_or(lambda: LinearHead.load(folder / "odd.safetensors"))
        assert found is None or (found.weight == 1).all()

    fuzz(load, damaged([whole]), 60)


def shard() -> bytes:
    """A tar of pictures and labels, with long names."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, data in enumerate(pictures()[:2]):
            for suffix, content in (("png", data), ("cls", b"%d" % number)):
                member = tarfile.TarInfo(f"{'long/é' * 20}{number}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def test_lists_of_files_are_taken_or_named(folder: Path, image_folder):
    pictures = image_folder(count=3)
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    text = "\n".join(names).encode()
    lines = io.StringIO()
    csv.writer(lines).writerows([["path", "label"], *([name, "a,b"] for name in names)])

    def read_all(path: Path) -> None:
        images = list_images(path)
        images.labels()
        for i in range(min(len(images), 4)):
            refused_or(lambda i=i: images.read(i), ImageError)

    table = folder / "table.parquet"
    embed_to_file(pixel_embedder(), list_images(pictures), folder / "listed.npy")
    (folder / "listed.parquet").replace(table)
    originals = {
        pictures / "list.txt": ([text, text + b"\n# x\n"], read_all),
        pictures / "labels.csv": ([lines.getvalue().encode()], read_label_file),
        pictures / "shard.tar": ([shard()], read_all),
        folder / "table.parquet": ([table.read_bytes()], read_all),
    }
    for path, (whole, read) in originals.items():

        def load(data: bytes, path: Path = path, read: Callable = read) -> None:
            path.write_bytes(data)
            refused_or(lambda: read(path))

        fuzz(load, damaged(whole), 20)


def test_files_of_an_index_are_taken_or_named(folder: Path):
    index = folder / "index"
    store = FaissStore.create(index, dim=4, model={"feature": "cls"})
    store.upsert([Item(id="a", vector=np.ones(4, np.float32), metadata={"n": 1})])
    store.merge()
    store.upsert([Item(id="b", vector=np.ones(4, np.float32), metadata={"n": 2})])
    store.close()
    for name in ("HEAD", "log-000002", "base-000002/manifest.json", "base-000002/items.sqlite"):
        whole = (index / name).read_bytes()

        def load(data: bytes, name: str = name) -> None:
            (index / name).write_bytes(data)
            found = refused_or(lambda: FaissStore.open(index), StoreError)
            if found is not None:
                assert found.count() == 2
                found.close()

        fuzz(load, damaged([whole]), 25)
        (index / name).write_bytes(whole)
