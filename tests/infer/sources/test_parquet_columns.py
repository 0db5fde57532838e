"""The columns of a table's images and classes are found as people write them, or asked for."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pytest

from dino_infer.cli.embed import main
from dino_infer.errors import DataError, ImageError
from dino_infer.sources.image_list import list_images
from tests.infer.sources.test_parquet import hugging_face, table
from tests.infer.sources.trees import grow, names

HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def hf_table(path: Path, columns: dict, features: dict) -> Path:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return table_of(path, pa.table(columns).replace_schema_metadata(metadata))


def table_of(path: Path, data: pa.Table) -> Path:
    pa.parquet.write_table(data, path)
    return path


@pytest.mark.parametrize(
    "column", ["image", "img", "images", "imgs", "jpg", "jpeg", "png", "webp", "image_bytes"]
)
def test_images_are_found_in_columns_of_usual_names(tmp_path, column):
    images = list_images(table(tmp_path / "t.parquet", {"id": [1], column: [b"x"]}))
    assert images.read(0) == b"x"


def test_a_column_of_numbers_is_passed_over_for_one_of_images(tmp_path):
    images = list_images(table(tmp_path / "t.parquet", {"images": [3], "jpg": [b"x"]}))
    assert images.read(0) == b"x"


def test_the_only_column_of_type_image_is_found_by_its_type(tmp_path):
    columns = {"scan": hugging_face([b"x"], [None]), "kind": [1]}
    classes = {"_type": "ClassLabel", "names": ["benign", "other"]}
    path = hf_table(tmp_path / "t.parquet", columns, {"scan": {"_type": "Image"}, "kind": classes})
    images = list_images(path)
    assert images.read(0) == b"x" and images.labels()[1] == ("other",)


def test_the_column_asked_for_is_taken(tmp_path):
    path = table(tmp_path / "t.parquet", {"image": [b"x"], "depth": [b"y"], "size": [1]})
    assert list_images(path, image_column="depth").read(0) == b"y"
    with pytest.raises(DataError, match=r"no column 'deep' in .* \['image', 'depth', 'size'\]"):
        list_images(path, image_column="deep")
    with pytest.raises(DataError, match="column 'size' of .*, got int64"):
        list_images(path, image_column="size")


def test_the_refusal_names_the_columns_and_the_flag(tmp_path, capsys):
    path = table(tmp_path / "t.parquet", {"photo": [b"x"], "note": ["n"]})
    assert main([str(path), "-o", str(tmp_path / "f.npy")]) == 1
    line = capsys.readouterr().err
    assert "['photo', 'note']" in line and "--image-column NAME" in line


@pytest.mark.parametrize("relative", [True, False])
def test_a_row_without_bytes_is_read_from_its_path(tmp_path, relative):
    folder = grow(tmp_path, "files/a.png", "files/b.png") / "files"
    paths = ["files/a.png" if relative else str(folder / "a.png"), "b", "files/no.png", None]
    column = hugging_face([None, b"inside", None, None], paths)
    images = list_images(table(tmp_path / "t.parquet", {"image": column}))
    found = {}
    for i in range(4):
        try:
            found[images.location(i)[-1]] = images.read(i)
        except ImageError as error:
            assert error.kind == "empty" and "holds no image" in error.reason
            found[images.location(i)[-1]] = None
    assert found == {"0": b"pixels of files/a.png", "1": b"inside", "2": None, "3": None}


@pytest.mark.parametrize("kind", [HF_IMAGE, pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("lists", [pa.list_, pa.large_list])
def test_each_image_of_a_list_counts(tmp_path, kind, lists, caplog):
    def cell(data):
        return {"bytes": data, "path": None} if kind is HF_IMAGE else data

    rows = [[cell(b"a"), cell(b"b")], None, [], [cell(b"c")]]
    columns = {"images": pa.array(rows, lists(kind)), "label": ["x", "y", "z", "w"]}
    images = list_images(table(tmp_path / "t.parquet", columns, row_group_size=3))
    assert names(images) == ["t.parquet/0/0", "t.parquet/0/1", "t.parquet/3/0"]
    assert [images.read(i) for i in range(3)] == [b"a", b"b", b"c"]
    assert [images.labels()[1][number] for number in images.labels()[0]] == ["x", "x", "w"]
    assert "2 of 4 rows hold no image" in caplog.text


def test_lists_of_named_images_keep_their_names(tmp_path):
    rows = [[{"bytes": b"b", "path": "b.jpg"}, {"bytes": b"a", "path": "a.jpg"}]]
    images = list_images(
        table(tmp_path / "t.parquet", {"images": pa.array(rows, pa.list_(HF_IMAGE))})
    )
    assert names(images) == ["t.parquet/a.jpg", "t.parquet/b.jpg"]
    assert [images.read(i) for i in range(2)] == [b"a", b"b"]


def test_lists_of_paths_are_read_beside_the_table(tmp_path):
    grow(tmp_path, "a.jpg", "b.jpg")
    columns = {"images": [["b.jpg"], ["a.jpg"]], "label": ["y", "x"]}
    images = list_images(table(tmp_path / "t.parquet", columns))
    assert [images.read(i) for i in range(2)] == [b"pixels of a.jpg", b"pixels of b.jpg"]
    assert images.labels()[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "data"),
    [(pa.large_string(), pa.large_binary()), (pa.string_view(), pa.binary_view())],
)
def test_other_kinds_of_strings_and_bytes_are_read(tmp_path, text, data):
    columns = {
        "image": pa.array([b"x"], data),
        "path": pa.array(["p.jpg"], text),
        "label": pa.array(["c"], text),
    }
    images = list_images(table(tmp_path / "t.parquet", columns))
    assert names(images) == ["t.parquet/p.jpg"] and images.read(0) == b"x"
    assert images.labels()[1] == ("c",)


def test_minus_one_is_no_class(tmp_path, caplog):
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    whole = hf_table(tmp_path / "1.parquet", {"image": [b"x"], "label": [-1]}, features)
    assert list_images(whole).labels() is None and not caplog.records
    partly = hf_table(tmp_path / "2.parquet", {"image": [b"x", b"y"], "label": [-1, 1]}, features)
    assert list_images(partly).labels() is None
    assert "1 of 2 images have no 'label'" in caplog.text


@pytest.mark.parametrize("column", ["labels", "cls", "class", "fine_label"])
def test_classes_are_found_in_columns_of_usual_names(tmp_path, column):
    images = list_images(table(tmp_path / "t.parquet", {"img": [b"x"], column: [7]}))
    assert images.labels()[1] == ("7",)


def test_which_of_several_columns_of_classes_was_taken_is_said(tmp_path, caplog):
    columns = {"img": [b"x"], "coarse_label": [1], "fine_label": [2], "labels": [[1, 2]]}
    with caplog.at_level(logging.INFO):
        assert list_images(table(tmp_path / "t.parquet", columns)).labels()[1] == ("2",)
    assert "the classes from the column 'fine_label', not from 'coarse_label'" in caplog.text


def test_true_and_false_are_classes(tmp_path):
    images = list_images(
        table(tmp_path / "t.parquet", {"image": [b"x", b"y"], "label": [True, False]})
    )
    assert images.labels()[1] == ("false", "true")
