"""The folder that ``dino-eval PROTOCOL -o`` writes.

``result.json``  the figures, their floors, settings and data
``NAME.csv``     further tables, such as a line for each class
``NAME.png``     pictures
others           files of a protocol, such as ``head.safetensors``
"""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dino_infer.errors import DataError
from dino_infer.evaluate.reports.result import Result
from dino_infer.files import hold_output, remove_leftovers, whole_file

FORMAT_VERSION = 1
RESULT = "result.json"


@contextmanager
def hold_report(
    folder: Path, *, overwrite: bool, names: Sequence[str] = (RESULT,)
) -> Iterator[None]:
    """Be the only process that works on a report; refuse before hours of work what cannot be.

    The folder is made, and taken away again if nothing comes of it.

    Args:
        folder: Folder of the report.
        overwrite: Replace an older report.
        names: Files that an older report is known by.

    Raises:
        DataError: It is no folder, not writable, or holds a report that must stay.
        OutputInUseError: Another process works on it.
    """
    _check_writable(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold_output(folder):
            found = [str(folder / name) for name in names if (folder / name).exists()]
            if found and not overwrite:
                raise DataError(f"{found[0]!r} exists; pass `overwrite=True`, or another `out`")
            remove_leftovers(*(folder / name for name in names))
            yield
    finally:
        if is_new:
            with suppress(OSError):  # it holds the report
                folder.rmdir()


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise DataError(f"the report goes to a folder, but {str(there)!r} is a file; change `out`")
    if not os.access(there, os.W_OK):
        raise DataError(f"cannot write {str(folder)!r}: folder {str(there)!r} is not writable")


def write_report(folder: Path, result: Result) -> list[Path]:
    """Write the files of a report; when one cannot be made, no older one is touched.

    Args:
        folder: An existing folder, see ``hold_report``.
        result: Result to write.

    Returns:
        The files.
    """
    written: list[Path] = []
    with ExitStack() as files:

        def new(name: str) -> Path:
            written.append(folder / name)
            return files.enter_context(whole_file(folder / name))

        # Nothing takes its name before all are written.
        path = new(RESULT)
        content = {"format_version": FORMAT_VERSION, **result.as_json()}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        for name, table in result.tables.items():
            path = new(f"{name}.csv")
            with path.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([table.columns, *table.rows])
        for name, picture in result.pictures.items():
            path = new(f"{name}.png")
            picture.save(path, format="PNG")
        for name, write in result.files.items():
            write(new(name))
    return written
