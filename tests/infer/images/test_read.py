"""Whatever lies in a folder of images: decoded upright and right, or refused with a reason."""

import json
import os

import numpy as np
import pytest

from dino_infer.errors import ImageError
from dino_infer.images.read import (
    ImageFailure,
    file_bytes,
    load_image,
    write_failures,
)
from tests.infer.images.encoding import QUARTERS, encoded


def test_files_that_cannot_be_read_are_typed(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = {
        "absent.jpg": ("missing", "no such file"),
        "link.jpg": ("missing", "no such file"),
        "folder.jpg": ("missing", "not a regular file"),
        "pipe.jpg": ("missing", "not a regular file"),
        "empty.jpg": ("empty", "0 bytes"),
        "empty.jpg/below.jpg": ("missing", "no such file"),
        "nul\0.jpg": ("missing", "no such file"),
        "x" * 300 + ".jpg": ("unreadable", "too long"),
    }
    for name, (kind, reason) in expected.items():
        with pytest.raises(ImageError) as caught:
            file_bytes(str(tmp_path / name), name=name)
        error = caught.value
        assert (error.path, error.kind) == (name, kind)
        assert reason in error.reason


def test_a_huge_file_is_refused_unread(tmp_path):
    with open(tmp_path / "scan.tif", "wb") as file:
        file.truncate(3 << 30)  # sparse: takes no disk
    with pytest.raises(ImageError, match="at most 2147483648 bytes, got 3221225472") as caught:
        load_image(tmp_path / "scan.tif")
    assert caught.value.kind == "too_large"


def test_the_bound_on_bytes_is_the_callers(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(bytes(100))
    assert file_bytes(path, max_file_bytes=100) == bytes(100)
    with pytest.raises(ImageError, match="expected at most 99 bytes, got 100") as caught:
        file_bytes(path, name="a", max_file_bytes=99)
    assert (caught.value.path, caught.value.kind) == ("a", "too_large")


def test_an_image_file_is_loaded(tmp_path):
    path = tmp_path / "a picture ü.png"
    path.write_bytes(encoded(QUARTERS))
    np.testing.assert_array_equal(load_image(path), QUARTERS)
    path.write_bytes(encoded(QUARTERS)[:50])
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert caught.value.path == str(path)


def test_failures_are_written_whole_and_come_back(tmp_path):
    odd = os.fsdecode(b"caf\xe9\nnewline.jpg")
    failures = [
        ImageFailure.of(ImageError(odd, "corrupt", "cut short")),
        ImageFailure(path="b.png", kind="empty", reason="the file has 0 bytes"),
    ]
    write_failures(tmp_path / "failed.jsonl", iter(failures))
    lines = (tmp_path / "failed.jsonl").read_text().splitlines()
    assert [ImageFailure(**json.loads(line)) for line in lines] == failures
    write_failures(tmp_path / "failed.jsonl", [])
    assert (tmp_path / "failed.jsonl").read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["failed.jsonl"]
