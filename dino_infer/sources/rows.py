"""Rows of an image list: numbers that say where each name and each image is."""

import hashlib
import os

import numpy as np
from jaxtyping import Integer

from dino_infer.sources.locations import Found

_ROW = np.dtype(
    [
        ("start", np.int64),  # of the name, in the block of names
        ("length", np.int32),
        ("source", np.int32),
        ("position", np.int64),  # of a member in its shard, in bytes; of a row in its table
        ("size", np.int64),  # of a member; -1 of a row
        ("label", np.int32),  # that a shard or table tells; -1 without one
    ]
)


FILE = np.dtype([("device", np.uint64), ("inode", np.uint64), ("position", np.int64)])
"""Identity of an image, whatever its name; device 0 numbers files that cannot be reached."""


def rows_of(found: list[Found]) -> tuple[np.ndarray, tuple[bytes, ...]]:
    """A row for each image of all sources, and the labels that the rows number."""
    counts = [len(part.lengths) for part in found]
    rows = np.zeros(sum(counts), dtype=_ROW)
    rows["length"] = np.concatenate([part.lengths for part in found])
    rows["source"] = np.repeat(np.arange(len(found)), counts)
    place_names(rows)
    return rows, _fill_members(rows, found)


def names_fingerprint(
    lengths: Integer[np.ndarray, " images"],
    names: bytes,
    sources: Integer[np.ndarray, " images"],
) -> str:
    """The ``fingerprint`` of a list with these names, which lie one after the other."""
    digest = hashlib.sha256(lengths.astype("<i4").tobytes())
    digest.update(names)
    if sources.any():
        digest.update(sources.astype("<i4").tobytes())
    return digest.hexdigest()


def place_names(rows: np.ndarray) -> None:
    """Fill in where names begin that lie one after the other."""
    rows["start"] = np.cumsum(rows["length"], dtype=np.int64) - rows["length"]


def _fill_members(rows: np.ndarray, found: list[Found]) -> tuple[bytes, ...]:
    """Fill in where members and rows are and which label they have; return the labels."""
    codes: dict[bytes | None, int] = {None: -1}
    rows["label"] = -1
    end = 0
    for part in found:
        start, end = end, end + len(part.lengths)
        if part.spans is not None:
            rows["position"][start:end], rows["size"][start:end] = part.spans.T
        if part.labels is not None:
            rows["label"][start:end] = [
                codes.setdefault(label, len(codes) - 1) for label in part.labels
            ]
    return tuple(label for label in codes if label is not None)


def device_and_inode(path: bytes, missing: dict[bytes, int]) -> tuple[int, int]:
    """Identity of a file; device 0 and a number of its own where it cannot be reached."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0, missing.setdefault(os.path.normpath(path), len(missing))
    return status.st_dev, status.st_ino


def top_folder(name: bytes) -> bytes | None:
    """First folder of a name, if that is below the root."""
    folder, slash, _ = name.partition(b"/")
    # The names of a list file may also be absolute, or lie beside its folder.
    return folder if slash and folder not in (b"", b"..") else None
