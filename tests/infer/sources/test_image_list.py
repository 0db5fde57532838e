"""Images are found in any layout that people keep them in, in one order, with small memory."""

import io
import logging
import multiprocessing
import os
import pickle
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dino_infer.errors import DataError, ImageError
from dino_infer.sources.image_list import list_images


def grow(root: Path, *names: str | bytes, content: bytes = b"pixels") -> Path:
    """Create files, each holding its own name after ``content``."""
    for name in map(os.fsencode, names):
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content + b" of " + name)
    return root


def shard(path: Path, members: dict[str, bytes], **options) -> Path:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def names(images) -> list[str]:
    return [images.name(i) for i in range(len(images))]


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


ODD_NAMES = [
    b"new\nline.jpg",
    b"caf\xe9.jpg",
    "😀/smile ü.jpg".encode(),
    b"tab\tand \"quotes'.jpg",
    b"\xff\xfe/x.jpg",
    b"back\\slash.jpg",
    b" leading and trailing /%20#1.jpg",
]


def test_names_of_any_bytes_are_found_and_read(tmp_path):
    grow(tmp_path, *ODD_NAMES)
    images = list_images([tmp_path])
    assert [os.fsencode(name) for name in names(images)] == sorted(ODD_NAMES)
    for i in range(len(images)):
        assert images.read(i) == b"pixels of " + os.fsencode(images.name(i))
    assert len(images.fingerprint()) == 64


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


def test_broken_links_are_listed_and_reported_when_read(tmp_path):
    grow(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "moved away.jpg")
    (tmp_path / "c").symlink_to(tmp_path / "no image.txt")
    images = list_images([tmp_path])
    assert names(images) == ["a.jpg", "b.jpg"]
    with pytest.raises(ImageError) as caught:
        images.read(1)
    assert (caught.value.path, caught.value.kind) == ("b.jpg", "missing")


def test_pipes_and_sockets_are_no_images(tmp_path):
    grow(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(list_images([tmp_path])) == ["a.jpg"]


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


def test_several_roots_keep_their_order(tmp_path):
    second, first = grow(tmp_path / "a", "2.jpg", "1.jpg"), grow(tmp_path / "b", "3.jpg")
    images = list_images([first, str(second)])
    assert names(images) == ["3.jpg", "1.jpg", "2.jpg"]
    assert [images.read(i)[-5:] for i in range(3)] == [b"3.jpg", b"1.jpg", b"2.jpg"]
    assert names(list_images(str(first))) == ["3.jpg"]


def test_a_relative_source_works_after_the_working_folder_changed(tmp_path, monkeypatch):
    grow(tmp_path / "photos", "1.jpg")
    monkeypatch.chdir(tmp_path)
    images = list_images(["photos"])
    monkeypatch.chdir("/")
    assert images.read(0) == b"pixels of 1.jpg"


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


def test_no_source_at_all_is_an_error():
    with pytest.raises(DataError, match="expected at least one folder"):
        list_images([])
    with pytest.raises(DataError, match="cannot read the data source ''"):
        list_images([""])


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


def test_class_folders_give_labels(tmp_path):
    grow(tmp_path, "dog/1.jpg", "cat/2.jpg", "cat/kittens/3.jpg", "ant/4.jpg")
    numbers, classes = list_images([tmp_path]).labels()
    assert classes == ("ant", "cat", "dog")
    assert numbers.tolist() == [0, 1, 1, 2]
    assert numbers.dtype == np.int32


def test_labels_need_a_class_for_every_image(tmp_path):
    grow(tmp_path, "dog/1.jpg", "stray.jpg")
    assert list_images([tmp_path]).labels() is None
    (tmp_path / "list.txt").write_text("dog/1.jpg\n../up/2.jpg\n")
    assert list_images([tmp_path / "list.txt"]).labels() is None
    (tmp_path / "list.txt").write_text("dog/1.jpg\n/abs/2.jpg\n")
    assert list_images([tmp_path / "list.txt"]).labels() is None
    (tmp_path / "list.txt").write_text("dog/1.jpg\n./cat/2.jpg\n")
    assert list_images([tmp_path / "list.txt"]).labels()[1] == ("cat", "dog")


def test_labels_of_a_selection_name_its_own_classes(tmp_path):
    grow(tmp_path, "ant/1.jpg", "cat/2.jpg", "dog/3.jpg")
    numbers, classes = list_images([tmp_path]).select([2, 0, 2]).labels()
    assert (numbers.tolist(), classes) == ([1, 0, 1], ("ant", "dog"))


def test_members_of_shards_are_images_with_labels(tmp_path):
    members = {
        "./b.jpg": b"second",
        "./b.cls": b"7\n",
        "a/x.png": b"first",
        "a/x.cls": b" 12 ",
        "a/x.json": b"{}",
        "._hidden.jpg": b"resource fork",
    }
    path = shard(tmp_path / "train-000.tar", members)
    images = list_images([path])
    assert names(images) == ["train-000.tar/a/x.png", "train-000.tar/b.jpg"]
    assert [images.read(i) for i in range(2)] == [b"first", b"second"]
    assert images.location(0) == f"{path}::a/x.png"
    numbers, classes = images.labels()
    assert (numbers.tolist(), classes) == ([0, 1], ("12", "7"))


def test_every_image_of_a_sample_has_its_class(tmp_path):
    members = {"1.cls": b"cat", "1.left.jpg": b"l", "1.right.jpg": b"r", "dir.1/2.jpg": b"x"}
    members |= {"dir.1/2.cls": b"dog", "1.seg.cls": b"no class"}
    numbers, classes = list_images([shard(tmp_path / "s.tar", members)]).labels()
    assert (numbers.tolist(), classes) == ([0, 0, 1], ("cat", "dog"))


@pytest.mark.parametrize("cls", [None, b"", b"  ", b"x" * 5000])
def test_a_shard_without_a_class_for_each_image_has_no_labels(tmp_path, cls):
    members = {"1.jpg": b"1", "1.cls": b"3", "2.jpg": b"2"} | (
        {"2.cls": cls} if cls is not None else {}
    )
    assert list_images([shard(tmp_path / "s.tar", members)]).labels() is None


def test_a_shard_without_classes_beside_one_with_them_has_no_labels(tmp_path):
    first = shard(tmp_path / "1.tar", {"1.jpg": b"1", "1.cls": b"3"})
    second = shard(tmp_path / "2.tar", {"2.jpg": b"2"})
    assert list_images([first, second]).labels() is None


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


def test_a_selection_keeps_order_and_repeats(tmp_path):
    grow(tmp_path, "a.jpg", "bb.jpg", "ccc.jpg")
    images = list_images([tmp_path]).select([2, 0, 2])
    assert names(images) == ["ccc.jpg", "a.jpg", "ccc.jpg"]
    assert images.read(0) == b"pixels of ccc.jpg"
    assert len(images.select([])) == 0
    assert images.select([]).labels() is not None
    assert names(images.select([1])) == ["a.jpg"]


def test_positions_outside_are_refused(tmp_path):
    images = list_images([grow(tmp_path, "a.jpg", "b.jpg")])
    for i in (-1, 2):
        with pytest.raises(IndexError, match=f"from 0 to 1, got {i}"):
            images.name(i)
        with pytest.raises(IndexError, match=f"from 0 to 1, got {i}"):
            images.select([0, i])
    assert images.name(np.int64(1)) == "b.jpg"


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


def read_in_child(images, results):
    results.put([images.read(i) for i in range(len(images))])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the fork is what is tested
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_lists_work_in_forked_and_spawned_processes(tmp_path, method):
    path = shard(tmp_path / "s.tar", {"1.jpg": b"one", "2.jpg": b"two"})
    images = list_images([path, grow(tmp_path / "photos", "3.jpg")])
    expected = [images.read(i) for i in range(3)]  # the shard is open before the fork
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=read_in_child, args=(images, results))
    child.start()
    assert results.get(timeout=60) == expected
    child.join()


def test_a_list_survives_pickling(tmp_path):
    images = list_images([grow(tmp_path, *ODD_NAMES)])
    again = pickle.loads(pickle.dumps(images))
    assert names(again) == names(images)
    assert again.read(0) == images.read(0)
    assert again.fingerprint() == images.fingerprint()


def test_a_hundred_thousand_paths_stay_small(tmp_path):
    (tmp_path / "list.txt").write_text(
        "".join(f"class_{i % 100:03}/image_{i:08}.jpg\n" for i in range(100_000))
    )
    tracemalloc.start()
    images = list_images([tmp_path / "list.txt"])
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == 100_000
    assert kept < 100_000 * 80  # the budget of 300 MB for a million, with room
    assert peak < 100_000 * 250
    assert len(pickle.dumps(images)) < 100_000 * 80


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
