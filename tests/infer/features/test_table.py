"""The table beside a matrix keeps every name, and any number of rows."""

import os

import numpy as np
import pyarrow.parquet
import pytest

from dino_infer.embedding.decoding import ImageFile
from dino_infer.features import table as row_table
from dino_infer.features.table import (
    TableRow,
    printable_name,
    read_table,
    row_line,
    rows_of_lines,
    table_rows,
    write_table,
)

ODD = os.fsdecode(b"caf\xe9.png")
NAMES = ["a b.png", "new\nline.png", "😀.png", '"quoted".png', "back\\slash.png"]


def rows_of(names, label=None):
    files = [ImageFile(3, 4 + i, f"{i:064x}", i, -1) for i in range(len(names))]
    return [TableRow(name, file, label=label) for name, file in zip(names, files, strict=True)]


@pytest.mark.parametrize("label", [None, "class ü"])
@pytest.mark.parametrize("odd", [[], [ODD]])
def test_rows_survive_lines_and_tables(tmp_path, label, odd):
    rows = rows_of(NAMES + odd, label)
    lines = [row_line(row) for row in rows]
    assert all(line.isascii() and line.count(b"\n") == 1 for line in lines)
    assert list(rows_of_lines(lines)) == rows
    path = tmp_path / "t.parquet"
    write_table(path, rows, labelled=label is not None, odd_names=bool(odd))
    assert list(table_rows(path)) == rows
    paths, labels = read_table(path)
    assert paths == tuple(NAMES + odd)
    assert labels is None if label is None else list(labels) == [label] * len(rows)


def test_names_that_are_no_utf8_are_printed_with_their_bytes(tmp_path):
    assert printable_name(ODD) == "caf\\xe9.png" and printable_name("ü.png") == "ü.png"
    write_table(tmp_path / "t.parquet", rows_of([ODD]), labelled=False, odd_names=True)
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table["path"].to_pylist() == ["caf\\xe9.png"]
    assert table["path_bytes"].to_pylist() == [b"caf\xe9.png"]


@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_a_table_is_written_a_part_at_a_time(tmp_path, monkeypatch, count):
    monkeypatch.setattr(row_table, "ROWS_AT_ONCE", 3)
    rows = rows_of([f"{i}.png" for i in range(count)])
    vectors = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
    path = tmp_path / "t.parquet"
    write_table(path, iter(rows), labelled=False, odd_names=False, features=vectors)
    assert list(table_rows(path)) == rows
    table = pyarrow.parquet.read_table(path)
    assert table["row"].to_pylist() == list(range(count))
    assert table["embedding"].to_pylist() == vectors.tolist()
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == -(-count // 3)


def test_the_column_of_names_may_be_called_otherwise(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, rows_of(NAMES), labelled=False, odd_names=False, path_column="image_path")
    assert pyarrow.parquet.read_schema(path).names[:2] == ["row", "image_path"]
    assert read_table(path)[0] == tuple(NAMES)
    assert [row.path for row in table_rows(path)] == NAMES
