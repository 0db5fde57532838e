"""Embedding a list into files: from the start, from where it stopped, in shares, or what is new."""

import importlib.metadata
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
import torch
from jaxtyping import Shaped

from dino_infer.decoding import ImageFile
from dino_infer.embed import EmbeddedBatch, Embedder, Embedding
from dino_infer.errors import DataError
from dino_infer.feature_writer import (
    COMMIT_EVERY_S,
    FeatureWriter,
    check_same_job,
    discard,
    failures_in,
    finished,
    unfinished,
)
from dino_infer.features import (
    FeaturePaths,
    Features,
    check_folder,
    class_names,
    feature_paths,
    partition_paths,
    read_features,
)
from dino_infer.listing import ImageList
from dino_infer.older_rows import older_rows
from dino_infer.progress import Progress
from dino_infer.row_table import OK, TableRow, table_rows
from dino_infer.shares import Share

OnError = Literal["skip", "fail", "nan"]
ROWS_AT_ONCE = 4096
NO_FILE = ImageFile(0, 0, "", -1, -1)  # of an image that could not be read

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the images of a job."""

    images: int = 0
    rows: int = 0
    failed: int = 0
    dim: int = 0

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            images=self.images + other.images,
            rows=self.rows + other.rows,
            failed=self.failed + other.failed,
            dim=max(self.dim, other.dim),
        )


@dataclass(frozen=True, kw_only=True)
class Output:
    """How features are stored.

    Attributes:
        dtype: "float32" or "float16".
        on_error: "skip" leaves images out that cannot be read, "fail" stops at the first, "nan"
            keeps a row of NaN for each.
        resume: Go on with an unfinished set.
        overwrite: Replace a finished or unfinished set.
        update: Take over the rows of an older set whose files have not changed.
        commit_every_s: Seconds of work that a stop may lose.
    """

    dtype: str = "float32"
    on_error: OnError = "skip"
    resume: bool = False
    overwrite: bool = False
    update: bool = False
    commit_every_s: float = COMMIT_EVERY_S


def embed_to_file(
    embedder: Embedder,
    images: ImageList,
    out: str | Path,
    *,
    output: Output = Output(),
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
    job = job_of(embedder, images, output, images_number=len(part))
    if share.count > 1:
        job["shard"] = str(share)
    return _Work(embedder, images, part, paths, job, output).run()


def embed_to_folder(
    embedder: Embedder,
    images: ImageList,
    out: str | Path,
    *,
    partition_size: int,
    output: Output = Output(),
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
    outcome = Outcome()
    for number in share.slice_of(len(starts), step=1):
        paths = partition_paths(out, number, count=len(starts))
        for file in paths:
            file.parent.mkdir(parents=True, exist_ok=True)
        part = range(starts[number], min(starts[number] + partition_size, len(images)))
        job = job_of(embedder, images, output, images_number=len(part))
        job["partition"] = f"{number}/{len(starts)}"
        work = _Work(embedder, images, part, paths, job, output, path_column="image_path")
        outcome += work.run()
    return outcome


def merge_shares(out: str | Path, *, overwrite: bool) -> Outcome:
    """Join the finished shares of a job into the set that one process would have made.

    Args:
        out: What ``embed_to_file`` was given.
        overwrite: Replace an existing set.

    Raises:
        DataError: A share is missing, or they are of different jobs.
    """
    paths = feature_paths(out)
    parts = [read_features(path) for path in _share_files(paths)]
    jobs = [_shared_job(part.manifest) for part in parts]
    for part, job in zip(parts, jobs, strict=True):
        check_same_job(jobs[0], job, where=Path(str(part.manifest["shard"])))
    job = {"images": sum(int(part.manifest["images"]) for part in parts)} | jobs[0]
    _enter(paths, Output(overwrite=overwrite))
    labelled = all(part.labels is not None for part in parts)
    writer = FeatureWriter(paths, job=job, dtype=job["dtype"], labelled=labelled)
    for share, part in zip(_share_files(paths), parts, strict=True):
        _append_all(writer, share, part)
    writer.finish()
    return _outcome(writer)


def share_paths(out: str | Path, share: Share) -> FeaturePaths:
    """Where one share of a job writes: ``feats.shard-2-of-8.npy``."""
    paths = feature_paths(out)
    if share.count == 1:
        return paths
    return feature_paths(_share_file(paths, share))


def job_of(
    embedder: Embedder, images: ImageList, output: Output, *, images_number: int
) -> dict[str, Any]:
    """What the rows of a set depend on."""
    toolkit = importlib.metadata.version("dino-toolkit")
    versions = {"dino-toolkit": toolkit, "torch": torch.__version__, "pillow": PIL.__version__}
    return {
        "images": images_number,
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
        _enter(paths, Output(overwrite=True))
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
        part: range,
        paths: FeaturePaths,
        job: dict[str, Any],
        output: Output,
        *,
        path_column: str = "path",
    ) -> None:
        self._embedder, self._images, self._part = embedder, images, part
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
        _enter(self._paths, self._output)
        labels = class_names(self._images)
        writer = FeatureWriter(
            self._paths,
            job=self._job,
            dtype=self._output.dtype,
            labelled=labels is not None,
            path_column=self._path_column,
            may_be_empty="shard" in self._job,
            commit_every_s=self._output.commit_every_s,
        )
        try:
            self._write(writer, labels, older)
        except BaseException:
            writer.close()
            raise
        writer.finish()
        return _outcome(writer)

    def _write(
        self, writer: FeatureWriter, labels: Shaped[np.ndarray, " images"] | None, older: Any
    ) -> None:
        images = self._images.select(self._part)
        start = writer.done.images
        if start:
            logger.info("going on after %d of %d images", start, len(images))
        if older is None:
            pieces = ((batch, True) for batch in self._embedder.batches(images, start=start))
        else:
            pieces = older.updated(self._embedder, images, start=start)
        with Progress("embed", total=len(images), start=start) as progress:
            for batch, whole in pieces:
                self._append(writer, batch, images, labels, may_commit=whole)
                progress.advance(len(batch.places))
        if not len(images):  # there may be more shares than batches; their rows have a width too
            none = np.empty((0, *self._embedder.feature_shape), dtype=np.float32)
            writer.append(none, [], [], images=0)

    def _append(
        self,
        writer: FeatureWriter,
        batch: EmbeddedBatch,
        images: ImageList,
        labels: Shaped[np.ndarray, " images"] | None,
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
            label = None if labels is None else str(labels[self._part[place]])
            failure = batch.failures.get(place)
            status = OK if failure is None else failure.kind
            rows.append(TableRow(images.name(place), file, status, label))
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


def _enter(paths: FeaturePaths, output: Output) -> None:
    """Refuse to touch what is there, or make room for a new set.

    Raises:
        DataError: A set is there, finished or not, and must stay.
    """
    begun = unfinished(paths)
    if begun and output.overwrite:
        discard(paths)
    elif begun and not output.resume:
        raise DataError(
            f"{str(paths.partial)!r} holds an unfinished set; pass --resume to go on with it, or "
            "--overwrite to start again"
        )
    found = [str(file) for file in (*paths.hashed, paths.manifest) if file.exists()]
    if found and not (output.overwrite or output.update or begun):
        raise DataError(
            f"{found[0]!r} exists; pass --overwrite to replace it, --update to add what is new, "
            "or another -o"
        )


def _outcome(writer: FeatureWriter) -> Outcome:
    done = writer.done
    return Outcome(images=done.images, rows=done.shape[0], failed=done.failed, dim=done.shape[-1])


def _share_file(paths: FeaturePaths, share: Share) -> Path:
    name = f"{paths.matrix.stem}.shard-{share.index}-of-{share.count}{paths.matrix.suffix}"
    return paths.matrix.with_name(name)


def _share_files(paths: FeaturePaths) -> list[Path]:
    """The matrices of all shares of a set, in order.

    Raises:
        DataError: There are none, or shares of several counts.
    """
    pattern = re.compile(
        re.escape(paths.matrix.stem) + r"\.shard-(\d+)-of-(\d+)" + re.escape(paths.matrix.suffix)
    )
    names = [file.name for file in paths.matrix.parent.iterdir()]
    counts = {int(found[2]) for name in names if (found := pattern.fullmatch(name))}
    if len(counts) != 1:
        wanted = _share_file(paths, Share(0, 2)).name
        raise DataError(
            f"expected the shards of one job beside {str(paths.matrix)!r}, such as {wanted!r}, "
            f"got shards of {sorted(counts) or 'none'}"
        )
    count = counts.pop()
    return [_share_file(paths, Share(index, count)) for index in range(count)]


def _shared_job(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a share's manifest says of the whole job."""
    own = {"format_version", "rows", "dim", "shape", "row_order", "failed", "files_sha256"}
    own |= {"images", "shard"}
    return {name: value for name, value in manifest.items() if name not in own}


def _append_all(writer: FeatureWriter, share: Path, part: Features) -> None:
    """Append a finished set to one being written."""
    paths = feature_paths(share)
    rows = table_rows(paths.table)
    for start in range(0, len(part.matrix), ROWS_AT_ONCE):
        features = part.matrix[start : start + ROWS_AT_ONCE]
        writer.append(features, list(islice(rows, len(features))), [], images=len(features))
    failures = list(failures_in(paths.failures))
    missing = int(part.manifest["images"]) - len(part.matrix)
    writer.append(part.matrix[:0], [], failures, images=missing)
