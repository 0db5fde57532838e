"""Embedding of consecutive images of a list as one feature set: new, resumed or updated."""

import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Shaped

from dino_infer.embedding.batches import EmbeddedBatch
from dino_infer.embedding.decoding import ImageFile
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError
from dino_infer.features.files import FeaturePaths, check_shape
from dino_infer.features.output import Outcome, Output, enter, outcome_in, outcome_of
from dino_infer.features.table import OK, TableRow
from dino_infer.features.unfinished import check_same_job, finished, recover_unfinished
from dino_infer.features.update import OlderRows, older_rows
from dino_infer.features.writer import FeatureWriter
from dino_infer.progress import Progress
from dino_infer.sources.image_list import ImageList

NO_FILE = ImageFile(0, 0, "", -1, -1)  # of an image that could not be read

logger = logging.getLogger(__name__)


class EmbedWork:
    """One set to be made; its runner holds the output.

    Args:
        embedder: Maker of the features.
        images: The whole list.
        labels: Class of each image of the list.
        part: The images that the set is of.
        paths: The files to make.
        job: Settings that the rows depend on.
        output: Layout of the stored rows.
        path_column: Name of the table's column of names.
    """

    def __init__(
        self,
        embedder: Embedder,
        images: ImageList,
        labels: Shaped[np.ndarray, " images"] | None,
        part: range,
        paths: FeaturePaths,
        job: dict[str, Any],
        output: Output,
        *,
        path_column: str = "path",
    ) -> None:
        self._embedder, self._images, self._part = embedder, images, part
        self._labels = labels
        self._paths, self._job, self._output = paths, job, output
        self._path_column = path_column

    def run(self) -> Outcome:
        """Make the set, or find it finished.

        Raises:
            DataError: The same as for ``embed_to_file``.
        """
        begun = recover_unfinished(self._paths)
        output = self._output
        done = finished(self._paths)
        if done is not None and output.resume and not (begun or output.update):
            before = {name: done.get(name) for name in self._job}
            check_same_job(before, self._job, where=self._paths.matrix)
            missing = [file for file in self._paths if not file.is_file()]
            if not missing:
                check_shape(self._paths)
                logger.info("%s is complete", self._paths.matrix)
                return outcome_in(done)
            logger.warning("%s is missing: the set is made again", missing[0])
            output = replace(output, overwrite=True)
        older = older_rows(self._paths, self._job) if output.update else None
        enter(self._paths, output)
        writer = FeatureWriter(
            self._paths,
            job=self._job,
            dtype=self._output.dtype,
            labelled=self._labels is not None,
            path_column=self._path_column,
            may_be_empty="shard" in self._job,
            commit_every_s=self._output.commit_every_s,
        )
        try:
            self._write(writer, older)
        except BaseException:
            writer.close()
            raise
        writer.finish()
        return outcome_of(writer)

    def _write(self, writer: FeatureWriter, older: OlderRows | None) -> None:
        images = self._images.select(self._part)
        start = writer.done.images
        if start:
            logger.info("going on after %d of %d images", start, len(images))
        pieces: Iterable[tuple[EmbeddedBatch, bool]]
        if older is None:
            pieces = ((batch, True) for batch in self._embedder.batches(images, start=start))
        else:
            pieces = older.updated(self._embedder, images, start=start)
        with Progress("embed", total=len(images), start=start) as progress:
            for batch, whole in pieces:
                self._append(writer, batch, images, may_commit=whole)
                progress.advance(len(batch.places))
        if not len(images):  # there may be more shares than batches; their rows have a width too
            none = np.empty((0, *self._embedder.feature_shape), dtype=np.float32)
            writer.append(none, [], [], images=0)

    def _append(
        self,
        writer: FeatureWriter,
        batch: EmbeddedBatch,
        images: ImageList,
        *,
        may_commit: bool,
    ) -> None:
        failures = [batch.failures[place] for place in sorted(batch.failures)]
        if failures and self._output.on_error == "fail":
            raise DataError(
                f"{failures[0].path!r} cannot be read: {failures[0].reason}; mend it, or pass "
                "`on_error='skip'`"
            )
        if self._output.on_error == "nan":
            batch = _with_nan_rows(batch)
        rows = []
        for place, file in zip(batch.indices.tolist(), batch.files, strict=True):
            label = None if self._labels is None else str(self._labels[self._part[place]])
            failure = batch.failures.get(place)
            status = OK if failure is None else failure.kind
            name, source = images.name(place), images.source(place)
            rows.append(TableRow(name, file, status, label, source))
        writer.append(
            batch.features, rows, failures, images=len(batch.places), may_commit=may_commit
        )


def _with_nan_rows(batch: EmbeddedBatch) -> EmbeddedBatch:
    """A row for every image; NaN where it failed."""
    places = np.arange(batch.places.start, batch.places.stop)
    features = np.full((len(places), *batch.features.shape[1:]), np.nan, dtype=np.float32)
    files = [NO_FILE] * len(places)
    features[batch.indices - batch.places.start] = batch.features
    for place, file in zip(batch.indices.tolist(), batch.files, strict=True):
        files[place - batch.places.start] = file
    return batch._replace(indices=places, features=features, files=files)
