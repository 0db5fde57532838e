"""Rows tell names, places and classes of the images of all sources."""

import numpy as np

from dino_infer.sources.image_list import list_images
from tests.infer.sources.trees import grow, names, shard


def test_several_roots_keep_their_order(tmp_path):
    second, first = grow(tmp_path / "a", "2.jpg", "1.jpg"), grow(tmp_path / "b", "3.jpg")
    images = list_images([first, str(second)])
    assert names(images) == ["3.jpg", "1.jpg", "2.jpg"]
    assert [images.read(i)[-5:] for i in range(3)] == [b"3.jpg", b"1.jpg", b"2.jpg"]
    assert names(list_images(str(first))) == ["3.jpg"]


def test_shards_and_folders_mix(tmp_path):
    grow(tmp_path / "photos", "cat/1.jpg")
    first = shard(tmp_path / "1.tar", {"1.jpg": b"one", "1.cls": b"dog"})
    second = shard(tmp_path / "2.tar", {"1.jpg": b"two", "1.cls": b"cat"})
    images = list_images([second, tmp_path / "photos", first])
    assert names(images) == ["2.tar/1.jpg", "cat/1.jpg", "1.tar/1.jpg"]
    assert [images.read(i) for i in range(3)] == [b"two", b"pixels of cat/1.jpg", b"one"]
    numbers, classes = images.labels()
    assert (numbers.tolist(), classes) == ([0, 0, 1], ("cat", "dog"))
    chosen = images.select(np.array([2, 0]))
    assert [chosen.read(i) for i in range(2)] == [b"one", b"two"]


def test_the_fingerprint_follows_names_and_order_only(tmp_path):
    one = list_images([grow(tmp_path / "one", "a.jpg", "bc.jpg")])
    moved = list_images([grow(tmp_path / "two", "a.jpg", "bc.jpg", content=b"other")])
    renamed = list_images([grow(tmp_path / "three", "a.jpg", "bd.jpg")])
    assert one.fingerprint() == moved.fingerprint()
    assert one.fingerprint() != renamed.fingerprint()
    assert one.fingerprint() != one.select([1, 0]).fingerprint()
    # The same bytes cut into other names.
    glued = list_images([grow(tmp_path / "four", "a.jpgb.jpg", "c.jpg")])
    split = list_images([grow(tmp_path / "five", "a.jpg", "b.jpgc.jpg")])
    assert glued.fingerprint() != split.fingerprint()
