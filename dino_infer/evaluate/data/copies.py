"""Images and copies of them: a folder with a CSV file, or with a folder for each transform.

A CSV file ``copies.csv`` in the folder, or ``FOLDER.csv`` beside it, has one of these headers; its
paths are relative to its own folder.

``query,original[,transform]``
    A line for each pair. An empty original makes the query a distractor, which nothing matches.
    The database is the folder ``original``, and all that is named as an original.
``file,original_id,role[,transform]``
    A line for each image, whose role is ``original`` or ``query``; other columns do not count.

Without one, as in Copydays, the database is the folder ``original``, and every other folder holds
the queries of a transform. A query has the name of its original, or the same first four digits of
six (``200001.jpg`` is made of ``200000.jpg``).
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from dino_infer.errors import DataError
from dino_infer.evaluate.data.label_files import first_names
from dino_infer.evaluate.data.repeats import repeats
from dino_infer.features.table import printable_name
from dino_infer.sources.image_list import ImageList, list_images

CSV_NAME = "copies.csv"
ORIGINAL, QUERY, TRANSFORM = "original", "query", "transform"
PAIRS = [QUERY, ORIGINAL]
ROLES = ["file", "original_id", "role"]
COPYDAYS_NAME = re.compile(r"\d{6}")


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Queries, the database that they are looked up in, and which is a copy of which."""

    source: str
    queries: ImageList
    references: ImageList
    originals: Sequence[Sequence[int]]
    """Positions of each query's originals in ``references``; none for a distractor query."""
    transforms: Sequence[str]
    """Transform that made each query; empty where none is named."""
    excluded: Sequence[str] = ()
    """Images left out and why, a line each."""


@dataclass
class _Truth:
    """Ground truth by the names of images."""

    database: dict[str, None] = field(default_factory=dict)
    originals: dict[str, list[str]] = field(default_factory=dict)
    """Originals of each query."""
    transforms: dict[str, str] = field(default_factory=dict)
    excluded: list[str] = field(default_factory=list)


def read_copies(source: str | Path) -> Copies:
    """Images and their copies.

    Args:
        source: The folder, or its CSV file.

    Raises:
        DataError: It is missing, has no copies, names an image that is not there, or a pair twice.
    """
    path = Path(source)
    if not path.exists():
        raise DataError(f"{str(source)!r} does not exist; give a folder of copies or its CSV file")
    table = _table_of(path)
    inner = "" if table is None else _inner_folder(table)
    root = path if table is None else table.parent / inner
    images = list_images([root])
    names = {
        str(PurePosixPath(inner, printable_name(images.name(i)))): i for i in range(len(images))
    }
    if table is None:
        truth = _truth_of_folders(names)
    else:
        truth = _truth_of_table(table, inner=inner, names=names)
    if not any(truth.originals.values()):
        raise DataError(
            f"{str(source)!r} has no query with an original; expected a file {CSV_NAME} in it with "
            f"the header {','.join(PAIRS)}, or a folder {ORIGINAL!r} and others with equal names"
        )
    if both := [query for query in truth.originals if query in truth.database]:
        raise DataError(
            f"{len(both)} images of {str(source)!r} are a query and an original too"
            f"{first_names(both)}; a query must be another file than its original"
        )
    places = {name: place for place, name in enumerate(truth.database)}
    return _with_each_reference_once(
        Copies(
            source=str(source),
            queries=images.select([names[query] for query in truth.originals]),
            references=images.select([names[name] for name in truth.database]),
            originals=[[places[name] for name in found] for found in truth.originals.values()],
            transforms=[truth.transforms[query] for query in truth.originals],
            excluded=truth.excluded,
        )
    )


def _table_of(path: Path) -> Path | None:
    """The CSV file that a source stands for, if there is one."""
    if path.is_file():
        return path
    return next((file for file in (path / CSV_NAME, Path(f"{path}.csv")) if file.is_file()), None)


def _inner_folder(table: Path) -> str:
    """The folder beside a CSV file that has its name, where there is one."""
    return table.stem if (table.parent / table.stem).is_dir() else ""


def _truth_of_table(table: Path, *, inner: str, names: Mapping[str, int]) -> _Truth:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="", restkey="")
            header = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{str(table)!r} cannot be read as CSV: {error}") from error
    find = _Finder(table, inner=inner, names=names)
    if set(ROLES) <= set(header):
        truth = _truth_of_roles(rows, find)
    elif header[:2] == PAIRS and header[2:] in ([], [TRANSFORM]):
        truth = _truth_of_pairs(rows, find)
    else:
        raise DataError(
            f"{str(table)!r} must have the header {','.join(PAIRS)}[,{TRANSFORM}] or "
            f"{','.join(ROLES)}[,{TRANSFORM}], got {','.join(header)!r}"
        )
    find.check()
    unnamed = [name for name in names if name not in truth.database | truth.originals]
    _exclude(truth, unnamed, f"images below {str(table.parent / inner)!r} are in no line")
    alone = [query for query, found in truth.originals.items() if not found]
    _exclude(truth, alone, "queries have no original and count in μAP and recall at P90 alone")
    return truth


class _Finder:
    """Names of a CSV file as those of images; remembers what is not there or comes twice."""

    def __init__(self, table: Path, *, inner: str, names: Mapping[str, int]) -> None:
        self._table = table
        self._inner = inner
        self._names = names
        self._unknown: dict[str, None] = {}
        self._repeated: dict[str, None] = {}

    @property
    def database(self) -> Iterable[str]:
        """The images of the folder of originals."""
        folder = str(PurePosixPath(self._inner, ORIGINAL))
        return (name for name in self._names if name.startswith(f"{folder}/"))

    def __call__(self, name: str, *, folder: str) -> str:
        """The image that a line names, by its path, or inside the folder of its kind."""
        for found in (PurePosixPath(name), PurePosixPath(self._inner, folder, name)):
            if str(found) in self._names:
                return str(found)
        self._unknown[name] = None
        return name

    def repeated(self, what: str) -> None:
        """Note what comes twice."""
        self._repeated[what] = None

    def check(self) -> None:
        """Refuse a file that does not fit.

        Raises:
            DataError: It names images that are not there, or anything twice.
        """
        for found, what in (
            (self._unknown, "images that are not there; mend the paths, relative to its folder"),
            (self._repeated, "pairs or images a second time; take those lines out"),
        ):
            if found:
                shown = first_names(list(found))
                raise DataError(f"{str(self._table)!r} names {len(found)} {what}{shown}")


def _truth_of_pairs(rows: Iterable[Mapping[str, str]], find: _Finder) -> _Truth:
    truth = _Truth(database=dict.fromkeys(find.database))
    for row in rows:
        query = find(row[QUERY], folder=QUERY)
        found = truth.originals.setdefault(query, [])
        made_by = truth.transforms.setdefault(query, row.get(TRANSFORM, ""))
        original = find(row[ORIGINAL], folder=ORIGINAL) if row[ORIGINAL] else None
        if original in found or made_by != row.get(TRANSFORM, ""):
            find.repeated(row[QUERY])
        elif original is not None:
            found.append(original)
            truth.database[original] = None
    return truth


def _truth_of_roles(rows: Sequence[Mapping[str, str]], find: _Finder) -> _Truth:
    truth = _Truth()
    by_id: dict[str, list[str]] = {}
    seen = set()
    for row in rows:
        name = find(row["file"], folder=row["role"])
        if name in seen:
            find.repeated(row["file"])
        seen.add(name)
        if row["role"] == ORIGINAL:
            truth.database[name] = None
            by_id.setdefault(row["original_id"], []).append(name)
        elif row["role"] != QUERY:
            raise DataError(
                f"the role of {row['file']!r} must be {ORIGINAL} or {QUERY}, got {row['role']!r}"
            )
    for row in rows:
        if row["role"] == QUERY:
            name = find(row["file"], folder=QUERY)
            own = by_id.get(row["original_id"], ()) if row["original_id"] else ()
            truth.originals[name] = list(own)
            truth.transforms[name] = row.get(TRANSFORM, "")
    lost = [r["file"] for r in rows if r["role"] == QUERY and r["original_id"] not in {*by_id, ""}]
    if lost:
        raise DataError(
            f"{len(lost)} queries have an original_id that no original has{first_names(lost)}"
        )
    return truth


def _truth_of_folders(names: Iterable[str]) -> _Truth:
    truth = _Truth()
    by_stem: dict[str, list[str]] = {}
    for name in names:
        if name.startswith(f"{ORIGINAL}/"):
            truth.database[name] = None
            by_stem.setdefault(PurePosixPath(name).stem, []).append(name)
    by_number = {
        stem[:4]: found for stem, found in by_stem.items() if COPYDAYS_NAME.fullmatch(stem)
    }
    alone = []
    for name in names:
        stem, folder = PurePosixPath(name).stem, str(PurePosixPath(name).parent)
        if name in truth.database:
            continue
        made_of = by_stem.get(stem)
        if made_of is None and COPYDAYS_NAME.fullmatch(stem):
            made_of = by_number.get(stem[:4])
        if made_of is None or folder == ".":
            alone.append(name)
        else:
            truth.originals[name] = made_of
            truth.transforms[name] = folder
    _exclude(truth, alone, "images have no original of their name")
    return truth


def _exclude(truth: _Truth, names: Sequence[str], why: str) -> None:
    if names:
        truth.excluded.append(f"{len(names)} {why}{first_names(names)}")


def _with_each_reference_once(copies: Copies) -> Copies:
    """The same without references that repeat another one, which a query would find as well."""
    found = repeats(copies.references)
    if not found:
        return copies
    kept = [i for i in range(len(copies.references)) if i not in found]
    place = {i: position for position, i in enumerate(kept)}
    names = [copies.references.name(i) for i in found]
    return replace(
        copies,
        references=copies.references.select(kept),
        originals=[
            list(dict.fromkeys(place[found.get(i, i)] for i in own)) for own in copies.originals
        ],
        excluded=[
            *copies.excluded,
            f"{len(names)} originals repeat another one byte for byte{first_names(names)}",
        ],
    )
