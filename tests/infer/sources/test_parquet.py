"""Parquet tables give their images by row, with little memory, and their damage has a name."""

import json
import logging
import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dino_infer.errors import DataError, ImageError
from dino_infer.sources import parquet
from dino_infer.sources.image_list import list_images
from dino_infer.sources.parquet_columns import PATH_COLUMNS
from tests.infer.sources.trees import grow, names, read_in_child


def table(path: Path, columns: dict, **options) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def hugging_face(images: list[bytes | None], paths: list[str | None]) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": b, "path": p} for b, p in zip(images, paths, strict=True)]
    return pa.array(rows, kind)


def failure(images, i: int, **options) -> ImageError:
    with pytest.raises(ImageError) as caught:
        images.read(i, **options)
    assert caught.value.path == images.name(i) and "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_encoded_images_are_named_by_their_row(tmp_path, kind):
    column = pa.array([b"%d" % row for row in range(12)], kind)
    path = table(tmp_path / "meta.parquet", {"image": column}, row_group_size=5)
    images = list_images(path)
    assert names(images)[0] == "meta.parquet/00" and names(images)[11] == "meta.parquet/11"
    assert [images.read(i) for i in range(12)] == [b"%d" % row for row in range(12)]
    assert images.location(11) == f"{path}::11"
    assert images.labels() is None


def test_paths_name_the_images_and_order_them(tmp_path):
    columns = {"path": ["b.jpg", "/a.jpg", "c/d.jpg"], "image": [b"b", b"a", b"d"]}
    images = list_images(table(tmp_path / "t.parquet", columns))
    assert names(images) == ["t.parquet/a.jpg", "t.parquet/b.jpg", "t.parquet/c/d.jpg"]
    assert [images.read(i) for i in range(3)] == [b"a", b"b", b"d"]


def test_tables_of_hugging_face_are_read_with_their_class_names(tmp_path):
    image = hugging_face([b"one", b"two", b"three"], ["x.jpg", "y.jpg", "w.jpg"])
    data = pa.table({"image": image, "label": [1, 0, 1]})
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(data.replace_schema_metadata(metadata), tmp_path / "t.parquet")
    images = list_images(tmp_path / "t.parquet")
    assert names(images) == ["t.parquet/w.jpg", "t.parquet/x.jpg", "t.parquet/y.jpg"]
    assert images.read(0) == b"three"
    numbers, classes = images.labels()
    assert (numbers.tolist(), classes) == ([1, 1, 0], ("cat", "dog"))


@pytest.mark.parametrize("paths", [["same.jpg", "same.jpg"], ["a.jpg", None], ["", "b.jpg"]])
def test_paths_that_tell_no_rows_apart_give_way_to_numbers(tmp_path, paths):
    path = table(tmp_path / "t.parquet", {"image": hugging_face([b"1", b"2"], paths)})
    assert names(list_images(path)) == ["t.parquet/0", "t.parquet/1"]


@pytest.mark.parametrize("column", [*PATH_COLUMNS, "image"])
def test_a_table_of_paths_is_a_list_beside_its_files(tmp_path, column):
    photos = grow(tmp_path / "photos", "b.jpg", "a/1.jpg")
    elsewhere = grow(tmp_path / "elsewhere", "z.jpg") / "z.jpg"
    path = table(photos / "t.parquet", {column: ["b.jpg", "./a/1.jpg", str(elsewhere)]})
    images = list_images(path)
    assert names(images) == [str(elsewhere), "a/1.jpg", "b.jpg"]
    assert images.read(1) == b"pixels of a/1.jpg" and images.read(0) == b"pixels of z.jpg"
    assert images.location(2) == str(photos / "b.jpg")


def test_labels_of_paths_come_from_the_column_or_else_from_folders(tmp_path):
    paths = ["cat/1.jpg", "dog/2.jpg", "cat/3.jpg"]
    without = list_images(table(tmp_path / "1.parquet", {"path": paths}))
    assert without.labels()[1] == ("cat", "dog")
    labels = pa.array(["wild", "tame", "wild"]).dictionary_encode()
    told = list_images(table(tmp_path / "2.parquet", {"path": paths, "label": labels}))
    numbers, classes = told.labels()  # in the order cat/1, cat/3, dog/2
    assert (numbers.tolist(), classes) == ([1, 1, 0], ("tame", "wild"))
    partly = table(tmp_path / "3.parquet", {"path": paths, "label": ["wild", None, ""]})
    assert list_images(partly).labels() is None


def test_whole_numbers_are_classes(tmp_path):
    path = table(tmp_path / "t.parquet", {"image": [b"x", b"y"], "label": [10, 9]})
    assert list_images(path).labels()[1] == ("10", "9")  # sorted as bytes, as all names are


def test_rows_without_an_image_are_typed(tmp_path):
    structs = hugging_face([None, b"", b"good"], ["1.jpg", "2.jpg", "3.jpg"])
    nulls = pa.array([None, b"", b"good"])
    for column in (structs, nulls):
        images = list_images(table(tmp_path / "t.parquet", {"image": column}))
        assert failure(images, 0).kind == "empty" and "row 0" in failure(images, 0).reason
        assert failure(images, 1).kind == "empty"
        assert images.read(2) == b"good"


def test_a_row_larger_than_wanted_is_refused(tmp_path):
    images = list_images(table(tmp_path / "t.parquet", {"image": [b"x" * 100]}))
    assert failure(images, 0, max_file_bytes=99).kind == "too_large"
    assert images.read(0, max_file_bytes=100) == b"x" * 100


def test_the_time_of_a_row_is_that_of_its_table(tmp_path):
    path = table(tmp_path / "t.parquet", {"image": [b"x"]})
    assert list_images(path).stat(0) == (-1, path.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x"]}, r"a column 'image' or one of path, .* got \['picture'\]"),
        ({"image": [1.5]}, "bytes, {bytes, path} or paths in the column 'image' of .* got double"),
        ({"image": [[1, 2]]}, "got list"),
        ({"image": [{"path": "a.jpg"}]}, "got struct"),
        ({"path": [b"raw"]}, "strings or whole numbers in the column 'path', got binary"),
        ({"path": ["a.jpg", None]}, "row 1 of .* has no 'path'"),
        ({"image": [b"x"], "label": [0.5]}, "whole numbers in the column 'label', got double"),
        ({"image": pa.array([], pa.binary())}, "has no rows"),
    ],
)
def test_a_table_of_other_things_says_what_was_expected(tmp_path, columns, message):
    path = table(tmp_path / "t.parquet", columns)
    with pytest.raises(DataError, match=message) as caught:
        list_images(path)
    assert "\n" not in str(caught.value)


def test_huge_row_groups_are_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_GROUP_BYTES", 10_000)
    images = [os.urandom(1000) for _ in range(20)]
    with pytest.raises(DataError, match="write it with row_group_size=1$"):
        list_images(table(tmp_path / "t.parquet", {"image": images}))
    assert len(list_images(table(tmp_path / "t.parquet", {"image": images}, row_group_size=5)))


@pytest.mark.parametrize("store_schema", [True, False])
def test_an_image_that_all_rows_share_is_held_once(tmp_path, store_schema):
    # Copied for each of 10,000 rows, one megabyte would be 10 GB.
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000), pa.array([bytes(1_000_000)]))
    path = table(tmp_path / "t.parquet", {"image": shared}, store_schema=store_schema)
    images = list_images(path)
    before = pa.total_allocated_bytes()
    assert images.read(9_999) == bytes(1_000_000)
    assert pa.total_allocated_bytes() - before < 10_000_000


def test_damage_anywhere_is_refused_or_typed(tmp_path):
    columns = {"image": [os.urandom(2000) for _ in range(10)], "path": list("abcdefghij")}
    good = table(tmp_path / "t.parquet", columns, write_page_checksum=True).read_bytes()
    outcomes = set()
    for place in [*range(0, len(good) - 700, 1200), *range(len(good) - 700, len(good), 70)]:
        damaged = bytearray(good)
        damaged[place : place + 5] = b"\xff\0\x7f\x80\xff"[: len(good) - place]
        path = tmp_path / f"{place}.parquet"
        path.write_bytes(damaged)
        try:
            images = list_images(path)
            outcomes.add("listed")
            for i in range(len(images)):
                images.read(i)
        except (DataError, ImageError) as error:
            assert "\n" not in str(error)
            outcomes.add(type(error))
    assert outcomes == {"listed", DataError, ImageError}
    for cut in (0, 3, len(good) // 2, len(good) - 1):
        (tmp_path / "cut.parquet").write_bytes(good[:cut])
        with pytest.raises(DataError, match="cannot read the table"):
            list_images(tmp_path / "cut.parquet")


def test_damaged_pages_are_corrupt_images(tmp_path):
    columns = {"image": [b"%d" % row for row in range(4)]}
    path = table(tmp_path / "t.parquet", columns, row_group_size=2)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + 10] = b"\xff" * 10
    path.write_bytes(data)
    images = list_images(path)
    assert images.read(1) == b"1"
    assert failure(images, 2).kind == "corrupt"


def test_a_table_that_changed_or_went_away_is_not_read_wrongly(tmp_path):
    path = table(tmp_path / "t.parquet", {"image": [b"x", b"y"]})
    images = list_images(path)
    table(path, {"image": [b"other", b"pictures", b"here"]})
    assert failure(images, 0).kind == "unreadable"
    assert "changed since it was listed" in failure(images, 0).reason
    path.unlink()
    assert failure(images, 1).kind == "missing"


def test_a_name_of_any_bytes_will_do(tmp_path):
    folder = os.fsencode(tmp_path)
    table(tmp_path / "t.parquet", {"image": [b"x"]})
    os.rename(folder + b"/t.parquet", folder + b"/caf\xe9\n.parquet")
    images = list_images(os.fsdecode(folder + b"/caf\xe9\n.parquet"))
    assert images.read(0) == b"x"
    assert os.fsencode(images.name(0)) == b"caf\xe9\n.parquet/0"


def test_tables_mix_with_other_sources_and_survive_pickling(tmp_path):
    path = table(tmp_path / "t.parquet", {"image": [b"x", b"y"], "label": ["cat", "dog"]})
    images = list_images([grow(tmp_path / "photos", "dog/1.jpg"), path])
    again = pickle.loads(pickle.dumps(images.select([2, 0, 1])))
    assert [again.read(i) for i in range(3)] == [b"y", b"pixels of dog/1.jpg", b"x"]
    assert again.labels()[0].tolist() == [1, 1, 0]


def test_a_table_in_a_folder_of_them_is_named_by_a_pattern(tmp_path):
    for number in range(2):
        table(tmp_path / f"{number}.parquet", {"image": [b"%d" % number]})
    assert names(list_images(tmp_path / "*.parquet")) == ["0.parquet/0", "1.parquet/0"]
    with pytest.raises(DataError, match=r"give \.parquet files by name, such as FOLDER/\*"):
        list_images(tmp_path)


def test_one_row_group_at_a_time_is_held(tmp_path):
    columns = {"image": [os.urandom(100_000) for _ in range(40)]}
    images = list_images(table(tmp_path / "t.parquet", columns, row_group_size=4))
    before = pa.total_allocated_bytes()
    for i in range(40):
        images.read(i)
        assert pa.total_allocated_bytes() - before < 1_000_000  # a group is 400,000


def test_an_order_that_jumps_between_row_groups_is_announced(tmp_path, caplog):
    paths = [f"{row % 4}/{row}.jpg" for row in range(40)]
    columns = {"image": [b"x"] * 40, "path": paths}
    with caplog.at_level(logging.WARNING):
        list_images(table(tmp_path / "t.parquet", columns, row_group_size=40))
        assert not caplog.messages
        list_images(table(tmp_path / "t.parquet", columns, row_group_size=4))
    assert "sort the table by its paths" in caplog.text


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the fork is what is tested
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_tables_are_read_in_forked_and_spawned_processes(tmp_path, method):
    columns = {"image": [b"%d" % row for row in range(6)]}
    images = list_images(table(tmp_path / "t.parquet", columns, row_group_size=2))
    expected = [images.read(i) for i in range(6)]  # a row group is held before the fork
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=read_in_child, args=(images, results))
    child.start()
    assert results.get(timeout=60) == expected
    child.join()


def test_threads_read_the_rows_they_ask_for(tmp_path):
    columns = {"image": [b"%d" % row for row in range(30)]}
    images = list_images(table(tmp_path / "t.parquet", columns, row_group_size=3))
    wrong = []

    def work(step):
        for i in range(0, 30 * step, step):
            if images.read(i % 30) != b"%d" % (i % 30):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(step,)) for step in (1, 7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
