"""Rows of an older feature set whose images have not changed since, for ``dino-embed --update``."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from dino_infer.embedding.batches import EmbeddedBatch
from dino_infer.embedding.decoding import ImageFile
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError, ImageError
from dino_infer.features.files import FeaturePaths, Features, read_set
from dino_infer.features.table import OK, TableRow, table_rows
from dino_infer.features.unfinished import check_same_job
from dino_infer.sources.image_list import ImageList

ROWS_AT_ONCE = 4096
MAY_DIFFER = ("images", "images_fingerprint", "sources", "batch_size", "on_error", "versions")

logger = logging.getLogger(__name__)


class OlderRows:
    """Rows that can be reused from an older set.

    An image counts as unchanged if its source, its name, its size in bytes and its time of
    modification are the same. Where the older set has the name from another source only, as after
    a move, the hash of its content decides.

    Args:
        features: The older set.
        rows: Rows of its table.
    """

    def __init__(self, features: Features, rows: Iterator[TableRow]) -> None:
        self._matrix = features.matrix
        sources = features.manifest.get("sources")
        self._sources: list[Any] = sources if isinstance(sources, list) else []
        self._files: list[ImageFile] = []
        self._row_sources: list[int] = []
        self._elsewhere: dict[int, ImageFile] = {}  # by place in the list of now
        self._places: dict[str, list[int]] = {}
        for at, row in enumerate(rows):
            self._files.append(row.file)
            self._row_sources.append(row.source)
            if row.status == OK:
                self._places.setdefault(row.path, []).append(at)

    def updated(
        self, embedder: Embedder, images: ImageList, *, start: int
    ) -> Iterator[tuple[EmbeddedBatch, bool]]:
        """Yield every image from ``start`` on, with its row reused or computed.

        Yields:
            Consecutive images, and whether the job may be gone on with after them.
        """
        # Where the sources of now stand among those of then.
        known = {source: number for number, source in enumerate(self._sources)}
        numbers = [known.get(source, -1) for source in images.sources]
        older = np.array(
            [self._row_of(images, place, numbers) for place in range(len(images))], dtype=np.int64
        )
        changed = np.flatnonzero(older < 0)
        if len(changed):
            logger.info("%d of %d images are new or have changed", len(changed), len(images))
        first, at = int(np.searchsorted(changed, start)), start
        for batch in embedder.batches(images.select(changed), start=first):
            places = changed[batch.places.start : batch.places.stop]
            yield from self._unchanged(at, int(places[0]), older)
            at = int(places[-1]) + 1
            yield from self._mixed(batch, places, older)
        yield from self._unchanged(at, len(images), older)

    def _row_of(self, images: ImageList, place: int, numbers: Sequence[int]) -> int:
        """The row that can be taken over, or -1."""
        named = self._places.get(images.name(place), [])
        if not named:
            return -1
        try:
            size, modified_ns = images.stat(place)
            alike = [at for at in named if size in (-1, self._files[at].bytes)]
            here = numbers[images.source(place)]
            own = [at for at in named if self._row_sources[at] == here]
            if own:
                same = [at for at in own if self._files[at].modified_ns == modified_ns]
                return next((at for at in same if at in alike), -1)
            return self._row_of_content(images, place, alike, modified_ns)
        except ImageError:
            return -1  # so that it is read, and reported

    def _row_of_content(
        self, images: ImageList, place: int, rows: Sequence[int], modified_ns: int
    ) -> int:
        """Return the one of some rows that is of the same bytes, or -1."""
        if not rows:
            return -1
        digest = hashlib.sha256(images.read(place)).hexdigest()
        for at in rows:
            if self._files[at].sha256 == digest:
                # The table tells of the file that was looked at now.
                self._elsewhere[place] = self._files[at]._replace(modified_ns=modified_ns)
                return at
        return -1

    def _unchanged(
        self, start: int, stop: int, older: Int64[np.ndarray, " images"]
    ) -> Iterator[tuple[EmbeddedBatch, bool]]:
        for part in _parts(start, stop):
            yield self._taken_over(part, older), True

    def _mixed(
        self,
        batch: EmbeddedBatch,
        changed: Int64[np.ndarray, " _changed"],
        older: Int64[np.ndarray, " images"],
    ) -> Iterator[tuple[EmbeddedBatch, bool]]:
        """Yield images from the first to the last of a batch, with those unchanged in between."""
        rows = zip(batch.indices.tolist(), batch.features, batch.files, strict=True)
        start = batch.places.start
        new = {int(changed[place - start]): (row, file) for place, row, file in rows}
        failures = {int(changed[place - start]): why for place, why in batch.failures.items()}
        for part in _parts(int(changed[0]), int(changed[-1]) + 1):
            piece = self._taken_over(part, older, new)
            own = {place: failures[place] for place in part if place in failures}
            yield piece._replace(failures=own), part.stop == int(changed[-1]) + 1

    def _taken_over(
        self,
        places: range,
        older: Int64[np.ndarray, " images"],
        new: Mapping[int, tuple[np.ndarray, ImageFile]] | None = None,
    ) -> EmbeddedBatch:
        new = new or {}
        indices = [place for place in places if older[place] >= 0 or place in new]
        features = np.empty((len(indices), *self._matrix.shape[1:]), dtype=np.float32)
        files = []
        for row, place in enumerate(indices):
            at = int(older[place])
            if place in new:
                features[row], file = new[place]
            else:
                features[row] = self._matrix[at]
                file = self._elsewhere.get(place, self._files[at])
            files.append(file)
        return EmbeddedBatch(places, np.array(indices, dtype=np.int64), features, files, {})


def older_rows(paths: FeaturePaths, job: Mapping[str, Any]) -> OlderRows:
    """The set that is to be brought up to date.

    Raises:
        DataError: There is none, or it was made differently.
    """
    if not paths.manifest.exists():
        raise DataError(
            f"no finished set at {str(paths.matrix)!r} to update; leave `update=True` away to "
            "make one"
        )
    features = read_set(paths, verify=True)  # its rows get a new hash
    settings = {name: value for name, value in job.items() if name not in MAY_DIFFER}
    before = {name: features.manifest.get(name) for name in settings}
    check_same_job(before, json.loads(json.dumps(settings)), where=paths.matrix)
    return OlderRows(features, table_rows(paths.table))


def _parts(start: int, stop: int) -> Iterator[range]:
    for at in range(start, stop, ROWS_AT_ONCE):
        yield range(at, min(at + ROWS_AT_ONCE, stop))
