"""Images are read where they lie: in folders, shards and tables."""

import os

import pytest

from dino_infer.errors import ImageError
from dino_infer.sources.image_list import list_images
from tests.infer.sources.trees import grow, names, shard


def test_broken_links_are_listed_and_reported_when_read(tmp_path):
    grow(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "moved away.jpg")
    (tmp_path / "c").symlink_to(tmp_path / "no image.txt")
    images = list_images([tmp_path])
    assert names(images) == ["a.jpg", "b.jpg"]
    with pytest.raises(ImageError) as caught:
        images.read(1)
    assert (caught.value.path, caught.value.kind) == ("b.jpg", "missing")


def test_files_that_vanish_or_are_empty_are_typed(tmp_path):
    grow(tmp_path, "gone.jpg")
    (tmp_path / "empty.jpg").touch()
    images = list_images([tmp_path])
    (tmp_path / "gone.jpg").unlink()
    for i, kind in enumerate(["empty", "missing"]):
        with pytest.raises(ImageError) as caught:
            images.read(i)
        assert (caught.value.kind, caught.value.path) == (kind, images.name(i))


def test_size_and_time_are_told_unread(tmp_path):
    grow(tmp_path / "photos", "a.jpg", content=b"12345")
    os.utime(tmp_path / "photos" / "a.jpg", ns=(5, 1_700_000_000_123_456_789))
    tar = shard(tmp_path / "s.tar", {"b.jpg": b"123"})
    images = list_images([tmp_path / "photos", tar])
    assert images.stat(0) == (len(b"12345 of a.jpg"), 1_700_000_000_123_456_789)
    assert images.stat(1) == (3, tar.stat().st_mtime_ns)
    (tmp_path / "photos" / "a.jpg").unlink()
    with pytest.raises(ImageError) as caught:
        images.stat(0)
    assert (caught.value.path, caught.value.kind) == ("a.jpg", "missing")
    (tmp_path / "photos" / "a.jpg").mkdir()
    with pytest.raises(ImageError, match="not a regular file"):
        images.stat(0)


def test_images_larger_than_wanted_are_refused_unread(tmp_path):
    folder = grow(tmp_path / "photos", "a.jpg", content=b"x" * 91)
    tar = shard(tmp_path / "s.tar", {"b.jpg": b"x" * 100})
    images = list_images([folder, tar])
    for i in range(2):
        assert len(images.read(i, max_file_bytes=100)) == 100
        with pytest.raises(ImageError, match="expected at most 98 bytes, got") as caught:
            images.read(i, max_file_bytes=98)
        assert (caught.value.path, caught.value.kind) == (images.name(i), "too_large")
