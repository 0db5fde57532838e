"""Parquet tables of images: one scan of the small columns, then encoded images are read by row."""

import bisect
import errno
import functools
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from dino_infer.errors import DataError, ImageError, ImageErrorKind
from dino_infer.images import check_size

IMAGE_COLUMN, LABEL_COLUMN = "image", "label"
PATH_COLUMNS = ("path", "image_path", "file_path", "file_name", "filename")
"""The first of these that a table has names its images, or says which files they are."""

MAX_GROUP_BYTES = 512 << 20
"""Bytes of images in one row group: a process holds one group, and a second while it changes."""


@dataclass(frozen=True)
class Table:
    """One Parquet file as it was when it was scanned."""

    path: bytes
    size: int
    modified_ns: int
    column: str
    """The leaf column of encoded images; empty where the table names files instead."""
    group_ends: tuple[int, ...]
    """The row behind the last one of each row group."""


class Rows(NamedTuple):
    """What a table says of its images, in the order of its rows."""

    names: list[bytes]
    labels: list[bytes | None] | None


def scan_table(path: bytes) -> tuple[Table, Rows]:
    """Where the images of a Parquet file are, without reading any.

    Raises:
        DataError: The file is damaged, has no usable column, or row groups too large to hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _typed_errors(path), pa.OSFile(path) as file:
        status = os.stat(path)
        parquet = pq.ParquetFile(file, pre_buffer=False)
        column, named = _image_column(parquet.schema_arrow, path)
        groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
        if column:
            _check_groups(groups, column, path)
        ends = tuple(itertools.accumulate(group.num_rows for group in groups))
        table = Table(path, status.st_size, status.st_mtime_ns, column, ends)
        names = _names(parquet, column, named, path)
        return table, Rows(names, _labels(parquet, path))


def read_row(table: Table, row: int, *, name: str, max_file_bytes: int) -> bytes:
    """The encoded image of a row; safe in threads, forked and spawned processes.

    The row group around it is decoded as a whole and kept until another one is needed, so rows
    want to be read in their order.

    Raises:
        ImageError: The table is gone, damaged, or not the file that was scanned; or no image.
    """
    group = bisect.bisect_right(table.group_ends, row)
    start = table.group_ends[group - 1] if group else 0
    with _typed_row_errors(table, name):
        cell = _row_group(table, group)[row - start]
    value = cell.value if cell.is_valid else None
    if value is None or not value.is_valid:
        raise ImageError(name, "empty", f"row {row} of the table holds no image")
    buffer = value.as_buffer()
    check_size(buffer.size, name=name, max_file_bytes=max_file_bytes)
    if buffer.size == 0:
        raise ImageError(name, "empty", "the image has 0 bytes")
    return buffer.to_pybytes()  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=1)
def _row_group(table: Table, group: int) -> Any:
    """The images of a row group, as an Arrow array of a dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pa.OSFile(table.path) as file:
        status = os.stat(table.path)
        if (status.st_size, status.st_mtime_ns) != (table.size, table.modified_ns):
            raise OSError(errno.ESTALE, "the table has changed since it was listed")
        # As a dictionary, because one image that all rows share would else be copied for each.
        columns = [table.column]
        options = {"pre_buffer": False, "page_checksum_verification": True}
        parquet = pq.ParquetFile(file, read_dictionary=columns, **options)
        # Arrow's threads do not survive a fork.
        column = parquet.read_row_group(group, columns=columns, use_threads=False).column(0)
    return pc.struct_field(column, "bytes") if "." in table.column else column


def _image_column(schema: Any, path: bytes) -> tuple[str, str]:
    """The leaf column of encoded images, and the one that names them; each "" without one."""
    import pyarrow as pa

    named = next((name for name in PATH_COLUMNS if schema.get_field_index(name) >= 0), "")
    if schema.get_field_index(IMAGE_COLUMN) < 0:
        if not named:
            wanted = f"a column {IMAGE_COLUMN!r} or one of {', '.join(PATH_COLUMNS)}"
            raise DataError(f"expected {wanted} in {os.fsdecode(path)!r}, got {schema.names}")
        return "", named
    kind = schema.field(IMAGE_COLUMN).type
    if _is_text(kind):
        return "", IMAGE_COLUMN
    leaf = IMAGE_COLUMN
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        if kind.get_field_index("path") >= 0:
            named = named or f"{IMAGE_COLUMN}.path"
        leaf, kind = f"{IMAGE_COLUMN}.bytes", kind.field("bytes").type
    values = _values(kind)
    if not (pa.types.is_binary(values) or pa.types.is_large_binary(values)):
        raise DataError(
            f"expected bytes, {{bytes, path}} or paths in the column {IMAGE_COLUMN!r} of "
            f"{os.fsdecode(path)!r}, got {kind}"
        )
    return leaf, named


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    values = _values(kind)
    return bool(pa.types.is_string(values) or pa.types.is_large_string(values))


def _values(kind: Any) -> Any:
    """The type of the values, where equal ones are stored once."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _check_groups(groups: list[Any], column: str, path: bytes) -> None:
    for group in groups:
        chunks = [group.column(i) for i in range(group.num_columns)]
        size = next(c.total_uncompressed_size for c in chunks if c.path_in_schema == column)
        if size > MAX_GROUP_BYTES:
            rows = max(1, group.num_rows * (MAX_GROUP_BYTES // 8) // size)
            raise DataError(
                f"expected row groups of at most {MAX_GROUP_BYTES} bytes of images, got {size} in "
                f"{os.fsdecode(path)!r}: write it with row_group_size={rows}"
            )


def _names(parquet: Any, column: str, named: str, path: bytes) -> list[bytes]:
    """The paths in a table, or numbers where images have no paths that tell them apart."""
    rows = parquet.metadata.num_rows
    names = _texts(parquet, named, path) if named else []
    if not column:
        if not all(names):
            row = next(row for row, name in enumerate(names) if not name)
            raise DataError(f"row {row} of {os.fsdecode(path)!r} has no {named!r}")
        return [name.removeprefix(b"./") for name in names if name]
    if not named or not all(names) or len(set(names)) < rows:
        return [b"%0*d" % (len(str(max(0, rows - 1))), row) for row in range(rows)]
    return [name.lstrip(b"/") for name in names if name]


def _labels(parquet: Any, path: bytes) -> list[bytes | None] | None:
    schema = parquet.schema_arrow
    if schema.get_field_index(LABEL_COLUMN) < 0:
        return None
    labels = _texts(parquet, LABEL_COLUMN, path)
    classes = _class_names(schema.metadata or {})
    codes = {b"%d" % code: os.fsencode(name) for code, name in enumerate(classes)}
    return [codes.get(label, label) if label else None for label in labels]


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """The names of classes that ``datasets`` of Hugging Face stores beside their numbers."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[LABEL_COLUMN]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _texts(parquet: Any, name: str, path: bytes) -> list[bytes | None]:
    """A column of strings or whole numbers, as bytes; equal ones are one object."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = parquet.read(columns=[name], use_threads=False).column(0)
    if "." in name:
        column = pc.struct_field(column, name.split(".")[1])
    if not (_is_text(column.type) or pa.types.is_integer(column.type)):
        got = f"{column.type} in {os.fsdecode(path)!r}"
        raise DataError(f"expected strings or whole numbers in the column {name!r}, got {got}")
    texts = column.cast(pa.string()) if not _is_text(column.type) else column
    values = texts.cast(pa.large_string()).cast(pa.large_binary()).to_numpy()
    shared: dict[bytes | None, bytes | None] = {}
    return [shared.setdefault(value, value) for value in values]


@contextmanager
def _typed_errors(path: bytes) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = f"cannot read the table {os.fsdecode(path)!r}: {_first_line(error)}"
        raise DataError(reason) from error


@contextmanager
def _typed_row_errors(table: Table, name: str) -> Iterator[None]:
    import pyarrow as pa

    location = os.fsdecode(table.path)
    try:
        yield
    except FileNotFoundError as error:
        raise ImageError(name, "missing", f"no such file: {location!r}") from error
    except (pa.ArrowException, OSError) as error:
        reason = f"cannot read the table {location!r}: {_first_line(error)}"
        # Only errors of the system have a number; Arrow's own OSErrors tell of damage.
        kind: ImageErrorKind = "unreadable" if getattr(error, "errno", None) else "corrupt"
        raise ImageError(name, kind, reason) from error


def _first_line(error: Exception) -> str:
    reason: str = getattr(error, "strerror", None) or str(error)
    return reason.partition("\n")[0].rstrip(".:")
