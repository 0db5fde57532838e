"""Ground truth of the revisited Oxford and Paris photos, read without running what a pickle says.

A folder holds ``gnd_NAME.pkl`` as it is published, or ``gnd_NAME.json`` of the same form, and the
photos in ``jpg``::

    {"imlist": ["all_souls_000000", ...], "qimlist": ["all_souls_000013", ...],
     "gnd": [{"bbx": [x0, y0, x1, y1], "easy": [...], "hard": [...], "junk": [...]}, ...]}

``gnd`` has an entry for each query, with positions in ``imlist``.

Source: https://arxiv.org/abs/1803.11285.
"""

import json
import math
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dino_infer.errors import DataError, first_line
from dino_infer.evaluate.data.label_files import first_names
from dino_infer.features.table import printable_name
from dino_infer.sources.image_list import ImageList, list_images

PHOTOS = "jpg"
KINDS = ("easy", "hard", "junk")
MAX_BYTES = 64 << 20  # the published files have less than 2 MB
NUMBERS = re.compile(r"[<>|=]?[iuf][1248]")  # dtypes of arrays that are read

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True, kw_only=True)
class QueryTruth:
    """Ground truth of one query."""

    easy: tuple[int, ...]
    """Positions of images that show the landmark clearly."""
    hard: tuple[int, ...]
    """Positions of images that show it small, from the side, or half hidden."""
    junk: tuple[int, ...]
    """Positions of images that count neither for nor against."""
    box: Box | None
    """Part of the query image that is asked for; None is all of it."""


@dataclass(frozen=True, kw_only=True)
class Revisited:
    """Queries and the database of a revisited set."""

    source: str
    database: ImageList
    queries: ImageList
    truth: Sequence[QueryTruth]
    """Ground truth of each query."""
    excluded: Sequence[str] = ()
    """Images left out and why, a line each."""


def ground_truth_in(folder: str | Path) -> Path | None:
    """The ground truth file of a folder; None where it is no folder of a revisited set.

    Raises:
        DataError: There are several.
    """
    found = sorted(
        path for ending in ("pkl", "json") for path in Path(folder).glob(f"gnd_*.{ending}")
    )
    if len({path.stem for path in found}) > 1:
        raise DataError(
            f"{str(folder)!r} has the ground truth of several sets"
            f"{first_names([path.name for path in found])}; keep one in each folder"
        )
    return found[0] if found else None  # .json before .pkl


def read_revisited(path: str | Path) -> Revisited:
    """The images and ground truth of a set.

    Args:
        path: The folder, or its ground truth file; the images are in the folder ``jpg`` beside it,
            or beside it.

    Raises:
        DataError: The file is damaged, holds more than data, or does not fit the images.
    """
    path = Path(path)
    if path.is_dir():
        if (found := ground_truth_in(path)) is None:
            raise DataError(f"{str(path)!r} has no gnd_NAME.pkl or gnd_NAME.json; add it")
        path = found
    content = _content(path)
    names, asked, truth = _checked(path, content)
    photos = path.parent / PHOTOS if (path.parent / PHOTOS).is_dir() else path.parent
    images = list_images([photos])
    places = {
        str(PurePosixPath(printable_name(images.name(i))).with_suffix("")): i
        for i in range(len(images))
    }
    missing = [name for name in (*names, *asked) if name not in places]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names) + len(asked)} images of {path.name} are not in "
            f"{str(photos)!r}{first_names(missing)}; complete the folder"
        )
    unknown = [name for name in places if name not in {*names, *asked}]
    shown = f"{len(unknown)} images are not in {path.name}{first_names(unknown)}"
    return Revisited(
        source=str(path),
        database=images.select([places[name] for name in names]),
        queries=images.select([places[name] for name in asked]),
        truth=truth,
        excluded=[shown] if unknown else [],
    )


def _content(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{str(path)!r} is larger than {MAX_BYTES >> 20} MiB: no ground truth")
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        with path.open("rb") as file:
            return _DataUnpickler(file, encoding="latin1").load()
    except DataError:
        raise
    except Exception as error:  # damaged bytes can make the reader raise nearly anything
        raise DataError(f"{str(path)!r} cannot be read: {first_line(error)}") from error


def _checked(path: Path, content: Any) -> tuple[list[str], list[str], list[QueryTruth]]:
    try:
        names, asked = (_names(content[key]) for key in ("imlist", "qimlist"))
        entries = list(content["gnd"])
        if len(entries) != len(asked) or not asked:
            raise ValueError(f"gnd has {len(entries)} entries for {len(asked)} queries")
        truth = [
            _truth(entry, query, images=len(names))
            for entry, query in zip(entries, asked, strict=True)
        ]
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise DataError(
            f"{str(path)!r} is no ground truth of a revisited set ({reason}); expected imlist, "
            "qimlist and gnd with bbx, easy, hard and junk"
        ) from error
    return names, asked, truth


def _names(value: Any) -> list[str]:
    names = [str(name) for name in _plain(value)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is listed twice")
    return names


def _truth(entry: Any, query: str, *, images: int) -> QueryTruth:
    found = {kind: tuple(int(place) for place in _plain(entry[kind])) for kind in KINDS}
    every = [place for places in found.values() for place in places]
    if len(set(every)) < len(every) or not all(0 <= place < images for place in every):
        raise ValueError(f"positions of query {query!r} repeat or are not in 0..{images - 1}")
    box = entry.get("bbx")
    if box is None:
        return QueryTruth(**found, box=None)
    left, top, right, bottom = (float(side) for side in _plain(box))
    if not (left < right and top < bottom and math.isfinite(left + top + right + bottom)):
        raise ValueError(f"bbx of query {query!r} is empty, or not of four finite numbers")
    return QueryTruth(**found, box=(left, top, right, bottom))


def _plain(value: Any) -> list[Any]:
    """A list out of a list, a tuple or an array of the pickle."""
    if isinstance(value, _Array):
        return value.values
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return [one.values[0] if isinstance(one, _Array) else one for one in value]


class _Dtype:
    """Stand-in for a dtype of NumPy: its code alone."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code
        self.order = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = state[1]

    def numbers(self, data: bytes | str) -> list[Any]:
        """Numbers that bytes hold; a pickle of Python 2 has them as text."""
        code = self.order + self.code.lstrip("<>|=")
        if not NUMBERS.fullmatch(code):
            raise ValueError(f"holds an array of {self.code!r}, expected numbers")
        raw = data.encode("latin-1") if isinstance(data, str) else data
        return list(np.frombuffer(raw, dtype=code).tolist())


class _Array:
    """Stand-in for an array of NumPy: its numbers in a list."""

    def __init__(self, values: list[Any] | None = None) -> None:
        self.values = values or []

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, _, dtype, _, data = state
        self.values = dtype.numbers(data)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"holds text in {encoding!r}")
    return text.encode("latin-1")


# All that a pickle may name, and what stands for it: nothing of these runs code of others.
_SAFE: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": lambda *_: None,
    "numpy.dtype": _Dtype,
    "multiarray._reconstruct": lambda *_: _Array(),
    "numeric._frombuffer": lambda data, dtype, *_: _Array(dtype.numbers(bytes(data))),
    "multiarray.scalar": lambda dtype, data: dtype.numbers(data)[0],
    "_codecs.encode": _latin1,
    "__builtin__.bytes": lambda: b"",
    "builtins.bytes": lambda: b"",
}


class _DataUnpickler(pickle.Unpickler):
    """Reads plain values and arrays of numbers, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name.

        Raises:
            ValueError: It could run code.
        """
        parts = module.split(".")
        known = f"{parts[-1] if parts[0] == 'numpy' else module}.{name}"
        if known not in _SAFE:
            raise ValueError(f"it holds {module}.{name}, and loading that could run code")
        # A new function each time: a pickle may set attributes of what it names.
        return lambda *arguments: _SAFE[known](*arguments)
