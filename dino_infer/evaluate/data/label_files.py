"""Classes from a file: CSV with the header ``path,label`` and one line an image."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from dino_infer.errors import DataError
from dino_infer.features.table import printable_name

HEADER = ["path", "label"]
NAMES_SHOWN = 5  # of a list in a message


def labels_from_file(
    path: str | Path, names: Sequence[str], *, unread: Iterable[str] = ()
) -> Shaped[np.ndarray, " names"]:
    r"""The label of each image; the file must name exactly the images, in any order.

    Args:
        path: The file, in UTF-8. Its paths are written as in the table of a feature set: POSIX,
            relative to the folder that was embedded, bytes that are no UTF-8 as ``\xff``.
        names: The images, as their listing names them.
        unread: More images, which the file may name too: those that could not be read.

    Raises:
        DataError: The file cannot be used, an image is missing in it, or a path is no image.
    """
    labels = read_label_file(path)
    printable = [printable_name(name) for name in names]
    for name, count in Counter(printable).most_common(1):
        if count > 1:
            raise DataError(
                f"{count} images are named {name!r}, so label file {str(path)!r} cannot tell them "
                "apart; give one folder that holds all of them, so that their paths differ"
            )
    missing = [name for name in printable if name not in labels]
    unknown = sorted(labels.keys() - set(printable) - {printable_name(name) for name in unread})
    if missing or unknown:
        raise DataError(
            f"label file {str(path)!r} does not fit: {len(missing)} of {len(names)} images are "
            f"not in it{first_names(missing)}, and {len(unknown)} of its paths are no "
            f"image{first_names(unknown)}; paths must read as in the row table, like {printable[0]}"
        )
    return np.array([labels[name] for name in printable], dtype=object)


def read_label_file(path: str | Path) -> dict[str, str]:
    """The label of each path in a label file.

    Raises:
        DataError: It cannot be read, has another header, or a line without a path and a label.
    """
    labels: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if header != HEADER:
                raise ValueError(f"expected the header path,label, got {','.join(header)!r}")
            for row in reader:
                if row:
                    _add(labels, row, line=reader.line_num)
    except OSError as error:
        raise DataError(f"cannot read label file {str(path)!r}: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"label file {str(path)!r} cannot be used: {error}") from error
    return labels


def first_names(names: Sequence[str]) -> str:
    """The first few of a list in brackets, for a message; nothing for an empty one."""
    if not names:
        return ""
    return f" ({', '.join(names[:NAMES_SHOWN])}{' ...' if len(names) > NAMES_SHOWN else ''})"


def _add(labels: dict[str, str], row: list[str], *, line: int) -> None:
    if len(row) != len(HEADER) or not all(row):
        raise ValueError(f"line {line} must hold a path and a label, got {','.join(row)!r}")
    if row[0] in labels:
        raise ValueError(f"line {line} names {row[0]!r} a second time")
    labels[row[0]] = row[1]
