"""Classes of a tar's images are found beside them, and what is not used is counted."""

import io
import logging
import os
import tarfile
from pathlib import Path

import pytest

from dino_infer.sources.image_list import list_images
from tests.infer.sources.trees import names, shard


def labels(path: Path) -> dict[str, str] | None:
    """The class of each member."""
    images = list_images(path)
    found = images.labels()
    if found is None:
        return None
    numbers, classes = found
    members = [name.partition("/")[2] for name in names(images)]
    return {name: classes[number] for name, number in zip(members, numbers, strict=True)}


DOTS = {"22.05.png": b"a", "22.05.cls": b"0", "22.06.png": b"b", "22.06.cls": b"1\n"}
SIDES = {"a.left.jpg": b"l", "a.left.cls": b"l", "a.jpg": b"x", "a.cls": b"x"}
MIXED = {"a.jpg": b"x", "a.cls": b"1", "b.jpg": b"y", "b.json": b'{"label": 2}'}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (DOTS, {"22.05.png": "0", "22.06.png": "1"}),
        (SIDES, {"a.jpg": "x", "a.left.jpg": "l"}),
        (MIXED, {"a.jpg": "1", "b.jpg": "2"}),
        ({"v1.2/a.b.JPG": b"a", "v1.2/a.b.CLS": b" big cat \r\n"}, {"v1.2/a.b.JPG": "big cat"}),
        ({"a.jpg": b"x", "a.json": b'{"label": 5, "width": 1}'}, {"a.jpg": "5"}),
        ({"a.b.jpg": b"x", "a.b.json": b'{"class": "caf\\u00e9"}'}, {"a.b.jpg": "café"}),
        ({"a.jpg": b"x", "a.json": b'{"label": 5}', "a.cls": b"6"}, {"a.jpg": "6"}),
    ],
)
def test_the_class_lies_beside_the_image(tmp_path, members, expected, caplog):
    assert labels(shard(tmp_path / "s.tar", members)) == expected
    assert not caplog.records


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[1]",
        b"not json",
        b'{"label": true}',
        b'{"label": [1]}',
        b"[" * 5000,
        b"-1",
        b'{"label": -1}',
    ],
)
def test_json_without_a_class_gives_none(tmp_path, text, caplog):
    members = {"a.jpg": b"x", "a.json": text, "a.txt": b"a caption"}
    assert labels(shard(tmp_path / "s.tar", members)) is None
    assert not caplog.records


@pytest.mark.parametrize("cls", [b"", b" \n", b"-1", b"x" * 5000, None])
def test_images_without_a_class_are_counted(tmp_path, cls, caplog):
    members = {"1.jpg": b"1", "1.cls": b"3", "2.jpg": b"2"} | (
        {"2.cls": cls} if cls is not None else {}
    )
    assert labels(shard(tmp_path / "s.tar", members)) is None
    assert ["1 of 2 images have no class" in line for line in caplog.messages] == [True]


def test_classes_that_go_with_no_image_are_not_dropped_silently(tmp_path, caplog):
    assert labels(shard(tmp_path / "s.tar", {"a.jpg": b"x", "b.cls": b"1"})) is None
    assert "1 of 1 images have no class" in caplog.text


def linked(
    path: Path, files: dict[str, bytes], links: dict[str, tuple[str, bytes]], **options
) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        for name, (target, kind) in links.items():
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, target
            tar.addfile(header)
    return path


HARD, SOFT = tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_in_a_tar_lead_to_their_files_and_are_one_image_with_them(tmp_path, format, caplog):
    deep = "folder/" * 30 + "blob"
    files = {
        "a/1.jpg": b"one",
        "a/1.cls": b"cat",
        "b/2.jpg": b"two",
        deep: b"three",
        ".store/x": b"four",
    }
    links = {
        "a/again.jpg": ("a/1.jpg", HARD),
        "b/1.jpg": ("../a/1.jpg", SOFT),
        "b/2.cls": ("../a/1.cls", SOFT),
        "c/3.png": (deep, HARD),
        "c/3.cls": ("b/2.cls", HARD),
        "d/4.png": ("../.store/x", SOFT),
        "d/4.cls": ("a/1.cls", HARD),
    }
    path = linked(tmp_path / "s.tar", files, links, format=format)
    images = list_images(path)
    assert names(images) == [
        f"s.tar/{name}" for name in ("a/1.jpg", "b/2.jpg", "c/3.png", "d/4.png")
    ]
    assert [images.read(i) for i in range(4)] == [b"one", b"two", b"three", b"four"]
    assert set(labels(path).values()) == {"cat"}
    assert not caplog.records


def test_links_that_lead_nowhere_are_counted(tmp_path, caplog):
    links = {"b.jpg": ("gone.jpg", SOFT), "c.jpg": ("/etc/c.jpg", SOFT), "d.jpg": ("d2.jpg", SOFT)}
    links |= {"d2.jpg": ("d.jpg", SOFT), "notes": ("gone", SOFT)}
    path = linked(tmp_path / "s.tar", {"a.jpg": b"a"}, links)
    assert names(list_images(path)) == ["s.tar/a.jpg"]
    assert "4 links to what is not in the tar" in caplog.text and len(caplog.records) == 1


def test_the_last_member_of_a_name_counts_as_when_it_is_unpacked(tmp_path, caplog):
    file = tmp_path / "s.tar"
    for data in (b"old", b"newer"):
        (tmp_path / "a.jpg").write_bytes(data)
        with tarfile.open(file, "a") as tar:
            tar.add(tmp_path / "a.jpg", "a.jpg")
    images = list_images(file)
    assert names(images) == ["s.tar/a.jpg"] and images.read(0) == b"newer"
    assert "1 members of a name that comes again later" in caplog.text


def test_a_file_given_to_tar_twice_stays_one(tmp_path, caplog):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").hardlink_to(tmp_path / "a.jpg")
    assert os.system(f"cd '{tmp_path}' && tar -cf s.tar a.jpg a.jpg b.jpg ./b.jpg") == 0
    images = list_images(tmp_path / "s.tar")
    assert names(images) == ["s.tar/a.jpg"] and images.read(0) == b"a"
    assert not caplog.records


def test_a_second_tar_behind_the_end_is_announced(tmp_path, caplog):
    first = shard(tmp_path / "1.tar", {"a.jpg": b"a"}).read_bytes()
    second = shard(tmp_path / "2.tar", {"b.jpg": b"b"}).read_bytes()
    (tmp_path / "both.tar").write_bytes(first + second)
    assert names(list_images(tmp_path / "both.tar")) == ["both.tar/a.jpg"]
    assert f"{len(second)} bytes behind the end of the archive are not read" in caplog.text


def test_pictures_in_a_tar_that_cannot_be_read_are_announced(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        list_images(shard(tmp_path / "s.tar", {"a.jpg": b"a", "b.HEIC": b"b"}))
    assert "1 pictures in formats that are not read" in caplog.text
