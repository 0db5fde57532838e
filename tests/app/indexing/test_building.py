"""Filling an index survives stops; ids and thumbnails hold nothing they should not."""

import io
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from dino_app.errors import ModelMismatchError
from dino_app.indexing.building import Incoming, fill, item_ids, prune
from dino_app.indexing.from_images import image_items
from dino_app.indexing.thumbnails import thumbnail
from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import Item
from dino_app.store.model_match import check_model
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError, ImageError
from dino_infer.sources.image_list import list_images

MODEL = {
    "arch": "vit_small",
    "feature": "cls",
    "precision": "fp32",
    "weights_sha256": "ab" * 32,
    "preprocess": {"size": 224, "mean": (0.5, 0.5, 0.5)},
}


def parts_of(count):
    for i in range(count):
        yield Incoming(1, [Item(id=f"{i:03}", vector=np.eye(4, dtype=np.float32)[i % 4])], [])


def test_what_was_stored_before_a_stop_is_there(tmp_path):
    def interrupted():
        yield from parts_of(7)
        raise KeyboardInterrupt

    store = FaissStore.create(tmp_path / "x", dim=4, model={})
    with closing(store), pytest.raises(KeyboardInterrupt):
        fill(interrupted(), lambda: store, total=20, upsert_every_s=0)
    with closing(FaissStore.open(tmp_path / "x", writable=True)) as store:
        assert store.count() == 7
        built = fill(parts_of(20), lambda: store, total=20)
        assert (built.images, built.stored, store.count()) == (20, 20, 20)
        assert prune(store, ["000", "001", "no"]) == 18 and store.count() == 2


def test_images_that_were_stored_are_not_embedded_again(tmp_path, photos, weights):
    images = list_images(photos)
    ids = item_ids(images.name(place) for place in range(len(images)))
    embedder = Embedder.load(weights, device="cpu", workers=1, batch_size=4)
    parts = image_items(embedder, images, ids, thumbnails=0)
    with closing(FaissStore.create(tmp_path / "x", dim=128, model={})) as store:
        first = next(parts)
        store.upsert(first.items)
        done, *others = image_items(embedder, images, ids, known=store, thumbnails=0)
        assert (done.images, done.items) == (4, [])
        left = [item.id for part in others for item in part.items]
        assert sorted(left + [item.id for item in first.items]) == ids


def test_no_item_is_stored_where_none_comes():
    def never():
        raise AssertionError

    assert fill([Incoming(3, [], [])], never, total=3).images == 3


def test_ids_are_texts_whatever_files_are_called():
    odd = ["a\nb.jpg", "\udcff.jpg", "ü/😀.jpg", "tab\t.png", "\x85.png"]
    assert item_ids(odd) == ["a\\x0ab.jpg", "\\xff.jpg", "ü/😀.jpg", "tab\\x09.png", "\\x85.png"]
    with pytest.raises(DataError, match="too long"):
        item_ids(["x" * 1025])
    with pytest.raises(DataError, match="2 images are named 'a'"):
        item_ids(["a", "b", "a"])


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def test_a_thumbnail_is_upright_small_and_without_exif():
    image = Image.new("RGB", (600, 300), "red")
    image.paste("blue", (0, 0, 300, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: the left is the top
    exif[0x010E] = "a secret place"
    data = encoded(image, exif=exif)
    made = thumbnail(data, name="x")
    with Image.open(io.BytesIO(made)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (128, 256))
        assert not picture.getexif() and b"secret" not in made
        top, bottom = (picture.convert("RGB").getpixel((64, y)) for y in (20, 230))
    assert top[2] > 200 > 60 > top[0] and bottom[0] > 200 > 60 > bottom[2]


def test_a_small_picture_is_not_made_larger():
    made = thumbnail(encoded(Image.new("RGB", (20, 10))), name="x")
    with Image.open(io.BytesIO(made)) as picture:
        assert picture.size == (20, 10)
    thin = thumbnail(encoded(Image.new("RGB", (4000, 2))), name="x", longest_side=64)
    with Image.open(io.BytesIO(thin)) as picture:
        assert picture.size == (64, 1)


def test_a_thumbnail_of_no_picture_says_which():
    with pytest.raises(ImageError, match="'x.jpg'"):
        thumbnail(b"nonsense", name="x.jpg")


def test_the_same_model_passes_and_lists_stand_for_tuples(caplog):
    check_model({**MODEL, "preprocess": {"size": 224, "mean": [0.5, 0.5, 0.5]}}, MODEL)
    assert not caplog.records
    check_model({**MODEL, "weights": "runs/photos"}, MODEL)
    check_model(MODEL, {**MODEL, "arch": "another name"})
    assert not caplog.records


def test_a_precision_or_an_unknown_model_is_warned_of(caplog):
    check_model(MODEL, {**MODEL, "precision": "bf16"})
    assert "was made in fp32 and is searched in bf16" in caplog.text
    check_model({}, MODEL)
    assert "does not say what made its vectors" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "cd" * 32}, r"weights_sha256 was 'abababababab\.\.\.' and is 'cdcd"),
        ({"feature": "mean"}, "feature was 'cls' and is 'mean'"),
        ({"preprocess": {"size": 256}}, "preprocessing size was 224 and is 256, prep"),
    ],
)
def test_a_difference_is_named(change, message):
    with pytest.raises(ModelMismatchError, match=message):
        check_model({**MODEL, "weights": "w.pth"}, {**MODEL, **change})
