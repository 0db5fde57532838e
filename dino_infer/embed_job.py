"""Embedding a list into files: from the start, from where it stopped, in shares, or what is new."""

import importlib.metadata
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from jaxtyping import Shaped

from dino_infer.decoding import ImageFile
from dino_infer.embed import EmbeddedBatch, Embedder, Embedding
from dino_infer.errors import DataError
from dino_infer.feature_writer import (
    FeatureWriter,
    check_same_job,
    discard,
    finished,
    unfinished,
)
from dino_infer.features import (
    FeaturePaths,
    check_folder,
    class_names,
    feature_paths,
    partition_paths,
)
from dino_infer.listing import ImageList
from dino_infer.merging import share_paths
from dino_infer.older_rows import OlderRows, older_rows
from dino_infer.outputs import Outcome, Output, enter, outcome_of
from dino_infer.progress import Progress
from dino_infer.row_table import OK, TableRow
from dino_infer.shares import Share

NO_FILE = ImageFile(0, 0, "", -1, -1)  # of an image that could not be read

logger = logging.getLogger(__name__)


def embed_to_file(
    embedder: Embedder,
    images: ImageList,
    out: str | Path,
    *,
    output: Output = Output(),  # noqa: B008 - frozen
    share: Share = Share(),  # noqa: B008
) -> Outcome:
    """Embed a list, or a share of it, into one feature set.

    Args:
        embedder: Makes the features.
        images: The whole list.
        out: ``.npy``, ``.safetensors`` or ``.parquet``; a share's files carry its number.
        output: How they are stored.
        share: Which part of the list.

    Raises:
        DataError: The output exists, is of another job, or cannot be written; with
            ``on_error="fail"``, an image cannot be read; a table is asked to hold matrices.
    """
    paths = share_paths(out, share)
    check_folder(paths.matrix.parent)
    if paths.matrix == paths.table and len(embedder.feature_shape) > 1:
        raise DataError(
            "a .parquet holds one vector an image, got features of shape "
            f"{embedder.feature_shape}; write .npy or .safetensors"
        )
    part = share.slice_of(len(images), step=embedder.batch_size)
    job = {"images": len(part), **job_of(embedder, images, output)}
    if share.count > 1:
        job["shard"] = str(share)
    return _Work(embedder, images, class_names(images), part, paths, job, output).run()


def embed_to_folder(
    embedder: Embedder,
    images: ImageList,
    out: str | Path,
    *,
    partition_size: int,
    output: Output = Output(),  # noqa: B008 - frozen
    share: Share = Share(),  # noqa: B008
) -> Outcome:
    """Embed a list, or a share of it, into a folder of partitions.

    Args:
        embedder: Makes the features.
        images: The whole list.
        out: The folder; made if need be.
        partition_size: Images of the list in a partition; a multiple of the batch size keeps rows
            the same bit for bit whatever the size.
        output: How they are stored; partitions cannot be updated.
        share: Which partitions: shares are whole ones, so nothing has to be merged.

    Raises:
        DataError: As ``embed_to_file``.
    """
    starts = range(0, len(images), partition_size)
    _clear_others(Path(out), len(starts), overwrite=output.overwrite)
    job, labels = job_of(embedder, images, output), class_names(images)
    outcome = Outcome()
    for number in share.slice_of(len(starts), step=1):
        paths = partition_paths(out, number, count=len(starts))
        for file in paths:
            file.parent.mkdir(parents=True, exist_ok=True)
        part = range(starts[number], min(starts[number] + partition_size, len(images)))
        own = {"images": len(part), **job, "partition": f"{number}/{len(starts)}"}
        work = _Work(embedder, images, labels, part, paths, own, output, path_column="image_path")
        outcome += work.run()
    return outcome


def job_of(embedder: Embedder, images: ImageList, output: Output) -> dict[str, Any]:
    """What the rows of a set depend on."""
    toolkit = importlib.metadata.version("dino-toolkit")
    versions = {"dino-toolkit": toolkit, "torch": torch.__version__, "pillow": PIL.__version__}
    return {
        "images_fingerprint": images.fingerprint(),
        "dtype": output.dtype,
        "on_error": output.on_error,
        **embedder.description(),
        "batch_size": embedder.batch_size,
        "versions": versions,
    }


def write_features(
    path: str | Path,
    embedding: Embedding,
    images: ImageList,
    *,
    description: Mapping[str, Any],
) -> None:
    """Write features that are in memory, replacing an older set.

    Args:
        path: ``.npy``, ``.safetensors`` or ``.parquet``.
        embedding: The rows and failures of ``images``.
        images: The list that was embedded.
        description: How the features were made, see ``Embedder.description``.

    Raises:
        DataError: They cannot be written.
    """
    paths = feature_paths(path)
    fingerprint = images.fingerprint()
    job = {"images": len(images), "images_fingerprint": fingerprint, "dtype": "float32"}
    try:
        enter(paths, Output(overwrite=True))
        labels = class_names(images)
        writer = FeatureWriter(paths, job=job | dict(description), labelled=labels is not None)
        places = np.flatnonzero(embedding.ok).tolist()
        rows = [
            TableRow(images.name(place), file, label=None if labels is None else labels[place])
            for place, file in zip(places, embedding.files, strict=True)
        ]
        writer.append(embedding.features, rows, embedding.failures, images=len(images))
        writer.finish()
    except OSError as error:
        discard(paths)
        raise DataError(f"cannot write features to {str(path)!r}: {error.strerror}") from error


class _Work:
    """One set to be made out of consecutive images of a list."""

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
        begun = unfinished(self._paths)
        done = finished(self._paths)
        if done is not None and self._output.resume and not (begun or self._output.update):
            before = {name: done.get(name) for name in self._job}
            check_same_job(before, self._job, where=self._paths.matrix)
            logger.info("%s is complete", self._paths.matrix)
            counts = {name: done[name] for name in ("images", "rows", "failed", "dim")}
            return Outcome(**counts)
        older = older_rows(self._paths, self._job) if self._output.update else None
        enter(self._paths, self._output)
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
                "--on-error skip"
            )
        if self._output.on_error == "nan":
            batch = _with_nan_rows(batch)
        rows = []
        for place, file in zip(batch.indices.tolist(), batch.files, strict=True):
            label = None if self._labels is None else str(self._labels[self._part[place]])
            failure = batch.failures.get(place)
            status = OK if failure is None else failure.kind
            rows.append(TableRow(images.name(place), file, status, label))
        writer.append(
            batch.features, rows, failures, images=len(batch.places), may_commit=may_commit
        )


def _clear_others(folder: Path, count: int, *, overwrite: bool) -> None:
    """Delete partitions beyond the last, which readers of the folder would take for rows of it.

    Raises:
        DataError: There are some, and nothing may be replaced.
    """
    found = [int(file.stem.removeprefix("manifest_")) for file in folder.glob("manifests/*.json")]
    for number in sorted(number for number in found if number >= count):
        if not overwrite:
            raise DataError(
                f"{str(folder)!r} holds partition {number}, but there are only {count} now; pass "
                "--overwrite, or another -o"
            )
        for file in partition_paths(folder, number, count=number + 1):
            file.unlink(missing_ok=True)


def _with_nan_rows(batch: EmbeddedBatch) -> EmbeddedBatch:
    """A row for every image; NaN where it failed."""
    places = np.arange(batch.places.start, batch.places.stop)
    features = np.full((len(places), *batch.features.shape[1:]), np.nan, dtype=np.float32)
    files = [NO_FILE] * len(places)
    features[batch.indices - batch.places.start] = batch.features
    for place, file in zip(batch.indices.tolist(), batch.files, strict=True):
        files[place - batch.places.start] = file
    return batch._replace(indices=places, features=features, files=files)
