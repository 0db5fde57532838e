"""Images are found in folders, list files and single files, or the answer says why not."""

import logging
import os

import pytest
from hypothesis import given, settings, strategies as st

from dino_infer.errors import DataError, ImageError
from dino_infer.sources.image_list import list_images
from tests.infer.sources.trees import grow, names, shard


def test_a_tree_is_listed_by_the_bytes_of_its_paths(tmp_path):
    expected = ["A.jpg", "a b/x y.PNG", "a-b/1.jpg", "a.jpg", "a/1.jpg", "a/b/2.webp", "a0.jpg"]
    grow(tmp_path, *reversed(expected), "notes.txt", "a/list.json", "README", "jpg")
    images = list_images([tmp_path])
    assert names(images) == expected == sorted(expected, key=str.encode)
    assert images.read(3) == b"pixels of a.jpg"
    assert images.location(5) == str(tmp_path / "a/b/2.webp")
    assert len(images) == 7


def test_hidden_files_and_folders_do_not_count(tmp_path):
    grow(tmp_path, "a.jpg", ".b.jpg", "._c.jpg", ".cache/d.jpg", "x/.e.jpg", "__MACOSX/._f.jpg")
    assert names(list_images([tmp_path])) == ["a.jpg"]
    assert len(list_images([tmp_path / ".cache"])) == 1  # unless asked for by name


def test_folders_named_like_images_are_folders(tmp_path):
    grow(tmp_path, "album.jpg/1.jpg")
    assert names(list_images([tmp_path])) == ["album.jpg/1.jpg"]


def test_links_are_followed_and_loops_survived(tmp_path):
    elsewhere = grow(tmp_path / "elsewhere", "deep/1.jpg")
    root = grow(tmp_path / "root", "a/2.jpg", "z.jpg")
    (root / "b").symlink_to(elsewhere)
    (root / "link.jpg").symlink_to(root / "z.jpg")
    (root / "a" / "up").symlink_to(root)
    (elsewhere / "deep" / "self").symlink_to("self")
    (elsewhere / "deep" / "round").symlink_to(root / "a")
    images = list_images([root])
    assert names(images) == ["a/2.jpg", "b/deep/1.jpg", "link.jpg", "z.jpg"]
    assert images.read(2) == b"pixels of z.jpg"


def test_a_folder_that_two_links_reach_counts_once(tmp_path):
    grow(tmp_path / "real", "1.jpg")
    (tmp_path / "again").symlink_to(tmp_path / "real")
    assert names(list_images([tmp_path])) == ["again/1.jpg"]


def test_pipes_and_sockets_are_no_images(tmp_path):
    grow(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(list_images([tmp_path])) == ["a.jpg"]


def test_single_images_are_sources_too(tmp_path):
    grow(tmp_path, "x/b.JPG", "a.png")
    images = list_images([tmp_path / "x/b.JPG", tmp_path / "a.png"])
    assert names(images) == ["b.JPG", "a.png"]
    assert images.read(0) == b"pixels of x/b.JPG"


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_list_file_names_paths_relative_to_itself(tmp_path, newline, start):
    photos = grow(tmp_path / "my photos", "b c.jpg", "a#1.jpg", b"caf\xe9.jpg")
    other = grow(tmp_path / "other", "z.dat")
    lines = [b"./b c.jpg", b"", b"caf\xe9.jpg", b"  ", b"a#1.jpg", os.fsencode(other / "z.dat")]
    (photos / "list.txt").write_bytes(start + newline.join(lines))
    images = list_images([photos / "list.txt"])
    absolute = str(other / "z.dat")
    assert names(images) == [absolute, "a#1.jpg", "b c.jpg", os.fsdecode(b"caf\xe9.jpg")]
    assert [images.read(i) for i in range(4)] == [
        b"pixels of z.dat",
        b"pixels of a#1.jpg",
        b"pixels of b c.jpg",
        b"pixels of caf\xe9.jpg",
    ]
    assert images.location(0) == absolute
    assert images.location(2) == str(photos / "b c.jpg")


def test_what_a_list_file_names_in_vain_is_reported_when_read(tmp_path):
    (tmp_path / "list.txt").write_text("gone.jpg\n.\n")
    images = list_images([tmp_path / "list.txt"])
    for i in range(2):
        with pytest.raises(ImageError) as caught:
            images.read(i)
        assert caught.value.kind == "missing"
    assert str(tmp_path / "gone.jpg") in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "absent", "No such file"),
        (lambda p: p / "nul\0", "embedded null"),
        (lambda p: grow(p / "texts", "a.txt", "b.txt", "c"), r"2 \.txt, 1 without suffix"),
        (lambda p: grow(p / "shards", "1.tar"), r"FOLDER/\*\.tar"),
        (lambda p: grow(p / "nothing", ".hidden.jpg"), r"no image in '.*nothing'$"),
        (lambda p: grow(p, "a.zip") / "a.zip", "unpack"),
        (lambda p: grow(p, "a.tar.gz") / "a.tar.gz", "unpack"),
        (lambda p: grow(p, "empty.txt", content=b"\n\n") / "empty.txt", None),
        (lambda p: grow(p, "a.npy", content=b"\x93NUMPY\0") / "a.npy", "one path a line"),
        (lambda p: shard(p / "text.tar", {"a.txt": b"x"}), "no image among the 1 files"),
        (lambda p: "/dev/null", "regular file"),
    ],
)
def test_what_holds_no_image_is_one_clear_line(tmp_path, make, message):
    source = make(tmp_path)
    if message is None:
        source.write_bytes(b"\n \r\n")
        message = "names no image"
    with pytest.raises(DataError, match=message) as caught:
        list_images([source])
    assert "\n" not in str(caught.value)


def test_an_utf_16_list_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n", encoding="utf-16")
    with pytest.raises(DataError, match="UTF-8 text file with one path a line"):
        list_images([tmp_path / "list.txt"])


def test_pictures_that_cannot_be_read_are_announced(tmp_path, caplog):
    grow(tmp_path, "a.jpg", "b.HEIC", "c.heic", "d.txt")
    with caplog.at_level(logging.INFO):
        list_images([tmp_path])
    assert caplog.records[0].levelname == "WARNING"
    assert "2 .heic, 1 .txt" in caplog.messages[0]


def test_a_folder_that_vanishes_while_listing_is_announced(tmp_path, caplog, monkeypatch):
    grow(tmp_path, "a.jpg", "b/c.jpg")
    scandir = os.scandir

    def vanishing(path):
        if path.endswith(b"/b/"):
            raise FileNotFoundError(2, "No such file or directory")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert names(list_images([tmp_path])) == ["a.jpg"]
    assert "left out the folder" in caplog.messages[0]


@settings(max_examples=30, deadline=None)
@given(
    tree=st.sets(
        st.tuples(st.sampled_from(["", "a/", "a-b/", "a.b/", "ü/b/"]), st.sampled_from("abÜZ-")),
        min_size=1,
        max_size=12,
    )
)
def test_any_tree_is_listed_in_byte_order(tmp_path_factory, tree):
    root = tmp_path_factory.mktemp("tree")
    expected = sorted((f"{folder}{name}.jpg" for folder, name in tree), key=str.encode)
    assert names(list_images([grow(root, *expected)])) == expected
