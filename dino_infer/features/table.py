"""The table beside a feature matrix: which image each row is."""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from dino_infer.embedding.decoding import ImageFile

ROWS_AT_ONCE = 65_536
OK = "ok"


class TableRow(NamedTuple):
    """One image of a feature set."""

    path: str
    """Name of the image in its listing; bytes that are not UTF-8 are surrogates."""
    file: ImageFile
    status: str = OK
    """"ok", or why its row holds no feature: the ``kind`` of its failure."""
    label: str | None = None
    source: int = 0
    """Index of its source in the listing; names are unique only within a source."""


def row_line(row: TableRow) -> bytes:
    """One row as a line of JSON, in ASCII so that any file name survives."""
    return json.dumps([row.path, *row.file, *row[2:]]).encode("ascii") + b"\n"


def rows_of_lines(lines: Iterable[bytes]) -> Iterator[TableRow]:
    """Parse lines of ``row_line``."""
    for line in lines:
        path, *file, status, label, source = json.loads(line)
        yield TableRow(path, ImageFile(*file), status, label, source)


def write_table(
    path: Path,
    rows: Iterable[TableRow],
    *,
    labelled: bool,
    odd_names: bool,
    several_sources: bool = False,
    path_column: str = "path",
    features: Float[np.ndarray, "rows dim"] | None = None,
) -> None:
    """Write rows as Parquet, a part at a time, so that any number fits into memory.

    Args:
        path: File to write; not whole until the call returns.
        rows: Rows in order.
        labelled: Add a column ``label``.
        odd_names: Add a column ``path_bytes``, because some name is no valid UTF-8.
        several_sources: Add a column ``source``.
        path_column: Name of the column of names.
        features: Add them as a column ``embedding`` of fixed-size lists.
    """
    import pyarrow as pa
    import pyarrow.parquet

    schema = _schema(
        path_column,
        labelled=labelled,
        odd_names=odd_names,
        several_sources=several_sources,
        features=features,
    )
    rows, start = iter(rows), 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while part := list(islice(rows, ROWS_AT_ONCE)):
            stop = start + len(part)
            columns = _columns(part, start, path_column)
            if features is not None:
                flat = pa.array(features[start:stop].ravel())
                columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, features.shape[1])
            writer.write_table(pa.table({name: columns[name] for name in schema.names}, schema))
            start = stop


def read_table(path: Path) -> tuple[tuple[str, ...], Shaped[np.ndarray, " rows"] | None]:
    """The name of each row, and its class where the table has classes."""
    import pyarrow.parquet

    wanted = {"path", "image_path", "path_bytes", "label"}
    names = pyarrow.parquet.read_schema(path).names
    columns = [name for name in names if name in wanted]
    if not columns:
        raise ValueError("the table has no column of names")
    table = pyarrow.parquet.read_table(path, columns=columns, partitioning=None)
    if "path_bytes" in columns:
        paths = tuple(os.fsdecode(name) for name in table["path_bytes"].to_pylist())
    else:
        paths = tuple(table[columns[0]].to_pylist())
    labels = None
    if "label" in columns:
        labels = np.array(table["label"].to_pylist(), dtype=object)
    return paths, labels


def table_rows(path: Path) -> Iterator[TableRow]:
    """All rows of a table, a part at a time."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if name != "embedding"]
        for part in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=names):
            for row in part.to_pylist():
                name = row.get("path_bytes", row.get("path", row.get("image_path")))
                file_fields = ImageFile(*(row[field] for field in ImageFile._fields))
                label, source = row.get("label"), row.get("source", 0)
                yield TableRow(os.fsdecode(name), file_fields, row["status"], label, source)


def possible_links(path: Path) -> int:
    """Number of rows whose file has the bytes and time of an earlier row: links, or copies."""
    import pyarrow.compute
    import pyarrow.parquet

    identity = ["sha256", "modified_ns"]
    if not set(identity) <= set(pyarrow.parquet.read_schema(path).names):
        return 0  # written by another program
    table = pyarrow.parquet.read_table(path, columns=identity, partitioning=None)
    table = table.filter(pyarrow.compute.field("sha256") != "")  # of images that were read
    return int(table.num_rows - table.group_by(identity).aggregate([]).num_rows)


def printable_name(name: str) -> str:
    r"""The name with bytes that are no UTF-8 written as ``\xff``; Parquet strings must be UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _schema(
    path_column: str,
    *,
    labelled: bool,
    odd_names: bool,
    several_sources: bool,
    features: np.ndarray | None,
) -> Any:
    import pyarrow as pa

    fields = [
        ("row", pa.int64()),
        (path_column, pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("modified_ns", pa.int64()),
        ("status", pa.string()),
    ]
    if odd_names:
        fields.append(("path_bytes", pa.binary()))
    if labelled:
        fields.append(("label", pa.string()))
    if several_sources:
        fields.append(("source", pa.int32()))
    if features is not None:
        vector = pa.list_(pa.from_numpy_dtype(features.dtype), features.shape[1])
        fields.append(("embedding", vector))
    return pa.schema(fields)


def _columns(rows: list[TableRow], start: int, path_column: str) -> dict[str, Any]:
    import pyarrow as pa

    columns: dict[str, Any] = {
        field: [getattr(row.file, field) for row in rows] for field in ImageFile._fields
    }
    columns["row"] = pa.array(range(start, start + len(rows)), pa.int64())
    columns[path_column] = [printable_name(row.path) for row in rows]
    columns["path_bytes"] = [os.fsencode(row.path) for row in rows]
    columns["status"] = [row.status for row in rows]
    columns["label"] = [row.label for row in rows]
    columns["source"] = [row.source for row in rows]
    return columns
