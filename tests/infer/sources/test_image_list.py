"""Images are found in any layout that people keep them in, in one order, with small memory."""

import multiprocessing
import os
import pickle
import tracemalloc

import numpy as np
import pytest

from dino_infer.errors import DataError
from dino_infer.sources.image_list import list_images
from tests.infer.sources.trees import grow, names, read_in_child, shard

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


def test_a_relative_source_works_after_the_working_folder_changed(tmp_path, monkeypatch):
    grow(tmp_path / "photos", "1.jpg")
    monkeypatch.chdir(tmp_path)
    images = list_images(["photos"])
    monkeypatch.chdir("/")
    assert images.read(0) == b"pixels of 1.jpg"


def test_no_source_at_all_is_an_error():
    with pytest.raises(DataError, match="expected at least one folder"):
        list_images([])
    with pytest.raises(DataError, match="cannot read the data source ''"):
        list_images([""])


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


def test_a_list_says_in_one_line_how_many_images_lie_where(tmp_path):
    one, two = grow(tmp_path / "one", "a.jpg", "b.jpg"), grow(tmp_path / "two", "c.jpg")
    assert repr(list_images(one)) == f"ImageList(2 images of '{one}')"
    assert repr(list_images([one, two])) == f"ImageList(3 images of '{one}' and 1 more source)"
