"""Parquet tables of images: one scan of the small columns, then encoded images are read by row."""

import bisect
import errno
import functools
import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from dino_infer.errors import DataError, ImageError, ImageErrorKind, first_line
from dino_infer.images.read import check_size, file_bytes
from dino_infer.sources.parquet_columns import (
    Columns,
    check_label,
    choose_columns,
    is_list,
    is_text,
)

logger = logging.getLogger(__name__)

NO_LABEL = b"-1"
"""A number of no class, as Hugging Face writes it for unlabelled images."""

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
    path_column: str
    """The leaf column of the files of images that the table itself does not hold; or empty."""
    group_ends: tuple[int, ...]
    """The image behind the last one of each row group."""


class Rows(NamedTuple):
    """Names and classes of a table's images, by row, then by the place in a list."""

    names: list[bytes]
    labels: list[bytes | None] | None


def scan_table(path: bytes, *, image_column: str | None = None) -> tuple[Table, Rows]:
    """Find the images of a Parquet file, without reading any but those in bare lists.

    Raises:
        DataError: The file is damaged, has no column that is known to hold images, or has row
            groups too large to hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _typed_errors(path), pa.OSFile(path) as file:
        status = os.stat(path)
        parquet = pq.ParquetFile(file, pre_buffer=False)
        columns = choose_columns(parquet.schema_arrow, path, image_column)
        leaf, path_leaf = _leaves(parquet, columns)
        if leaf:
            groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
            _check_groups(groups, leaf, path)
        counts = [_images_per_row(parquet, i, columns) for i in range(parquet.num_row_groups)]
        ends = tuple(itertools.accumulate(int(count.sum()) for count in counts))
        table = Table(path, status.st_size, status.st_mtime_ns, leaf, path_leaf, ends)
        per_row = np.concatenate([np.zeros(0, np.int64), *counts])
        if bare := int((per_row == 0).sum()):
            logger.warning("%r: %d of %d rows hold no image", os.fsdecode(path), bare, len(per_row))
        names = _names(parquet, columns, per_row, path)
        return table, Rows(names, _labels(parquet, columns, per_row, path))


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
        images, paths = _row_group(table, group)
        cell = images[row - start]
    value = cell.value if cell.is_valid else None
    if value is None or not value.is_valid:
        file = paths[row - start].as_py() if paths is not None else None
        return _file_of_row(table, row, file, name=name, max_file_bytes=max_file_bytes)
    buffer = value.as_buffer()
    check_size(buffer.size, name=name, max_file_bytes=max_file_bytes)
    if buffer.size == 0:
        raise ImageError(name, "empty", "the image has 0 bytes")
    return buffer.to_pybytes()  # type: ignore[no-any-return]


def _file_of_row(
    table: Table, row: int, file: str | None, *, name: str, max_file_bytes: int
) -> bytes:
    """The image of a row that only names its file, absolute or beside the table."""
    if not file:
        raise ImageError(name, "empty", f"row {row} of the table holds no image")
    path = os.path.join(os.path.dirname(table.path), os.fsencode(file))
    if not os.path.exists(path):
        reason = f"row {row} of the table holds no image, and its file {file!r} is not there"
        raise ImageError(name, "empty", reason)
    return file_bytes(path, name=name, max_file_bytes=max_file_bytes)


@functools.lru_cache(maxsize=1)
def _row_group(table: Table, group: int) -> tuple[Any, Any]:
    """The images of a row group, as an Arrow array of a dictionary, and their paths or None."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pa.OSFile(table.path) as file:
        status = os.stat(table.path)
        if (status.st_size, status.st_mtime_ns) != (table.size, table.modified_ns):
            raise OSError(errno.ESTALE, "the table has changed since it was listed")
        # As a dictionary, because one image that all rows share would else be copied for each.
        options = {"pre_buffer": False, "page_checksum_verification": True}
        parquet = pq.ParquetFile(file, read_dictionary=[table.column], **options)
        columns = [table.column, *filter(None, [table.path_column])]
        # Arrow's threads do not survive a fork.
        column = parquet.read_row_group(group, columns=columns, use_threads=False).column(0)
    column = _flat(column)
    if not pa.types.is_struct(column.type):
        return column, None
    paths = pc.struct_field(column, "path") if table.path_column else None
    return pc.struct_field(column, "bytes"), paths


def _flat(column: Any) -> Any:
    """The images of all rows, where each row holds a list of them."""
    import pyarrow.compute as pc

    return pc.list_flatten(column) if is_list(column.type) else column


def _leaves(parquet: Any, columns: Columns) -> tuple[str, str]:
    """Parquet's names of the columns of encoded images and of their paths inside; or empty."""
    if not columns.image:
        return "", ""
    schema = parquet.schema
    names = [schema.column(i).path for i in range(len(schema))]
    inside = [name for name in names if name.split(".", 1)[0] == columns.image]
    if not columns.has_struct:
        return inside[0], ""
    last = {name.rpartition(".")[2]: name for name in inside}
    return last["bytes"], last.get("path", "")


def _images_per_row(parquet: Any, group: int, columns: Columns) -> Int64[np.ndarray, " rows"]:
    import pyarrow.compute as pc

    if not columns.is_list:
        return np.ones(parquet.metadata.row_group(group).num_rows, np.int64)
    name = columns.named if not columns.image else columns.image
    leaf, path_leaf = _leaves(parquet, columns)
    small = path_leaf or leaf or name
    lists = parquet.read_row_group(group, columns=[small], use_threads=False).column(0)
    counts = pc.fill_null(pc.list_value_length(lists), 0)
    return np.asarray(counts.to_numpy(), np.int64)


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


def _names(
    parquet: Any, columns: Columns, per_row: Int64[np.ndarray, " rows"], path: bytes
) -> list[bytes]:
    """The paths in a table, or numbers where images have no paths that tell them apart."""
    named, total = columns.named, int(per_row.sum())
    names = _texts(parquet, named, path) if named else []
    if not columns.image:
        if not all(names):
            row = next(row for row, name in enumerate(names) if not name)
            raise DataError(f"row {row} of {os.fsdecode(path)!r} has no {named!r}")
        return [name.removeprefix(b"./") for name in names if name]
    if all(names) and len(set(names)) == len(names) == total:
        return [name.lstrip(b"/") for name in names if name]
    digits = len(str(max(0, len(per_row) - 1)))
    if not columns.is_list:
        return [b"%0*d" % (digits, row) for row in range(total)]
    places = len(str(max(0, int(per_row.max(initial=0)) - 1)))
    return [
        b"%0*d/%0*d" % (digits, row, places, place)
        for row, count in enumerate(per_row.tolist())
        for place in range(count)
    ]


def _labels(
    parquet: Any, columns: Columns, per_row: Int64[np.ndarray, " rows"], path: bytes
) -> list[bytes | None] | None:
    if not columns.label:
        return None
    labels = _texts(parquet, columns.label, path)
    kind = parquet.schema_arrow.field(columns.label).type
    codes: dict[bytes | None, bytes | None] = {
        b"%d" % code: os.fsencode(name) for code, name in enumerate(columns.classes)
    }
    if not is_text(kind):
        codes[NO_LABEL] = None
    told = [codes.get(label, label) if label else None for label in labels]
    if columns.is_list:
        told = [told[row] for row in np.repeat(np.arange(len(told)), per_row).tolist()]
    if (without := told.count(None)) and without < len(told):
        logger.warning(
            "%r: %d of %d images have no %r, so no class is used",
            os.fsdecode(path),
            without,
            len(told),
            columns.label,
        )
    return told


def _texts(parquet: Any, name: str, path: bytes) -> list[bytes | None]:
    """A column of strings or whole numbers, as bytes; equal ones are one object."""
    import pyarrow as pa
    import pyarrow.compute as pc

    top, _, inside = (name, "", "") if name in parquet.schema_arrow.names else name.rpartition(".")
    leaves = [parquet.schema.column(i).path for i in range(len(parquet.schema))]
    own = [leaf for leaf in leaves if leaf.split(".", 1)[0] == top and leaf.endswith(inside)]
    column = _flat(parquet.read(columns=own, use_threads=False).column(0))
    if inside:
        column = pc.struct_field(column, inside)
    check_label(column.type, name, path)
    values = column.cast(pa.string()).cast(pa.large_string()).cast(pa.large_binary()).to_numpy()
    shared: dict[bytes | None, bytes | None] = {}
    return [shared.setdefault(value, value) for value in values]


@contextmanager
def _typed_errors(path: bytes) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = f"cannot read the table {os.fsdecode(path)!r}: {first_line(error).rstrip('.:')}"
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
        reason = f"cannot read the table {location!r}: {first_line(error).rstrip('.:')}"
        # Only errors of the system have a number; Arrow's own OSErrors tell of damage.
        kind: ImageErrorKind = "unreadable" if getattr(error, "errno", None) else "corrupt"
        raise ImageError(name, kind, reason) from error
