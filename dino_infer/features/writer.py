"""A feature set on its way to disk: appended to, safe against a stop at any moment, gone on with.

While a set is unfinished its parts lie in ``feats.npy.partial/``: ``rows`` (the future matrix, its
header still blank), ``table.jsonl``, ``failed.jsonl``, and ``journal.jsonl``, which says how much
of each can be trusted. What was written after the last line of the journal is cut off when the set
is gone on with, so a set that was interrupted ends as the same bytes as one that was not.
"""

import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from jaxtyping import Float

from dino_infer.features.files import (
    FORMAT_VERSION,
    ROW_ORDER,
    FeaturePaths,
    sha256_of,
)
from dino_infer.features.journal import (
    FAILED,
    JOURNAL,
    ROWS,
    TABLE,
    Done,
    journal_line,
    open_appended,
    recover_journal,
)
from dino_infer.features.matrix import header, header_length
from dino_infer.features.table import TableRow, printable_name, row_line, rows_of_lines, write_table
from dino_infer.features.unfinished import (
    FINISHED_TABLE,
    JOB,
    MANIFEST,
    check_same_job,
    discard,
    job_in,
    move_finished,
)
from dino_infer.files import make_folder, sync_folder, whole_file, write_json
from dino_infer.images.read import ImageFailure

logger = logging.getLogger(__name__)

COMMIT_EVERY_S = 2.0


class FeatureWriter:
    """Appends rows to a feature set, from where an earlier writer of the same job got to.

    Args:
        paths: The files to make.
        job: Settings and images of the set; goes into the manifest.
        dtype: Type of the matrix: "float32" or "float16".
        labelled: True if rows have a class.
        path_column: Name of the table's column of names.
        may_be_empty: Also make a set without rows, as a part of a whole that has some.
        commit_every_s: Seconds of work that a stop may lose.

    Raises:
        DataError: The unfinished set is of another job.
        OSError: Nothing can be written.
    """

    def __init__(
        self,
        paths: FeaturePaths,
        *,
        job: Mapping[str, Any],
        dtype: str = "float32",
        labelled: bool = False,
        path_column: str = "path",
        may_be_empty: bool = False,
        commit_every_s: float = COMMIT_EVERY_S,
    ) -> None:
        self._paths, self._folder = paths, paths.partial
        self._job = json.loads(json.dumps(job))
        self._dtype, self._suffix = dtype, paths.matrix.suffix
        self._labelled, self._path_column = labelled, path_column
        self._may_be_empty = may_be_empty
        self._commit_every_s = commit_every_s
        make_folder(self._folder)
        if not (self._folder / JOB).exists():
            write_json(self._folder / JOB, self._job)
        check_same_job(job_in(self._folder) or {}, self._job, where=self._folder)
        self.done = recover_journal(self._folder, header_size=header_length(self._suffix))
        with ExitStack() as opened:
            self._files = open_appended(self._folder, self.done, opened)
            self._journal = opened.enter_context((self._folder / JOURNAL).open("ab"))
            sync_folder(self._folder)
            self._opened = opened.pop_all()
        self._last_commit_s = time.monotonic()

    def append(
        self,
        features: Float[np.ndarray, "rows ..."],
        rows: Sequence[TableRow],
        failures: Sequence[ImageFailure],
        *,
        images: int,
        may_commit: bool = True,
    ) -> None:
        """Add the outcome of the next images of the list.

        Args:
            features: A row for each of ``rows``.
            rows: Number of the image of each feature.
            failures: Images that could not be read.
            images: Number of images that this was.
            may_commit: True if a set may be gone on with from here.
        """
        matrix, table, failed = self._files
        matrix.write(np.ascontiguousarray(features, dtype=self._dtype).data)
        table.write(b"".join(map(row_line, rows)))
        failed.write(b"".join(map(_failure_line, failures)))
        before = self.done
        self.done = Done(
            images=before.images + images,
            shape=(before.shape[0] + len(rows), *(features.shape[1:] or before.shape[1:])),
            failed=before.failed + len(failures),
            odd_names=before.odd_names or any(printable_name(r.path) != r.path for r in rows),
        )
        if may_commit and time.monotonic() - self._last_commit_s >= self._commit_every_s:
            self.commit()

    def commit(self) -> None:
        """Make everything so far survive any stop."""
        sizes = tuple(file.sync() for file in self._files)
        checksums = tuple(file.checksum for file in self._files)
        self.done = dataclasses.replace(self.done, sizes=sizes, checksums=checksums)
        self._journal.write(journal_line(self.done))
        self._journal.flush()
        os.fsync(self._journal.fileno())
        self._last_commit_s = time.monotonic()

    def close(self) -> None:
        """Leave the set unfinished, to be gone on with from the last commit."""
        self._opened.close()  # all of them, also where the disk is full

    def finish(self) -> None:
        """Put every file into its place, the manifest last; without a row only the failures."""
        try:
            self.commit()
        finally:
            self.close()
        if self.done.shape[0] or self._may_be_empty:
            self._write_header()
            self._write_table()
            write_json(self._folder / MANIFEST, self._manifest())
            move_finished(self._paths)
        else:
            for file in (self._paths.manifest, *self._paths.hashed):
                file.unlink(missing_ok=True)
            with whole_file(self._paths.failures) as temporary:
                shutil.copyfile(self._folder / FAILED, temporary)
            discard(self._paths)

    def _write_header(self) -> None:
        with (self._folder / ROWS).open("rb+") as file:
            file.write(header(self._suffix, self.done.shape, self._dtype))
            file.flush()
            os.fsync(file.fileno())

    def _write_table(self) -> None:
        embedding: np.ndarray | None = None
        if self._suffix == ".parquet" and self.done.shape[0]:
            rows = self._folder / ROWS
            embedding = np.memmap(rows, dtype=self._dtype, mode="r", shape=self.done.shape)
        elif self._suffix == ".parquet":  # an empty file cannot be mapped
            embedding = np.empty(self.done.shape, self._dtype)
        table = self._folder / FINISHED_TABLE
        with (self._folder / TABLE).open("rb") as lines, whole_file(table) as temporary:
            write_table(
                temporary,
                rows_of_lines(lines),
                labelled=self._labelled,
                odd_names=self.done.odd_names,
                several_sources=len(self._job.get("sources", ())) > 1,
                path_column=self._path_column,
                features=embedding,
            )

    def _manifest(self) -> dict[str, Any]:
        paths, rows = self._paths, self._folder / ROWS
        hashes = {} if self._suffix == ".parquet" else {paths.matrix.name: sha256_of(rows)}
        return {
            "format_version": FORMAT_VERSION,
            "rows": self.done.shape[0],
            "dim": self.done.shape[-1],
            "shape": list(self.done.shape),
            "row_order": ROW_ORDER,
            "failed": self.done.failed,
            **self._job,
            "files_sha256": hashes | {paths.table.name: sha256_of(self._folder / FINISHED_TABLE)},
        }


def _failure_line(failure: ImageFailure) -> bytes:
    return json.dumps(dataclasses.asdict(failure)).encode() + b"\n"
