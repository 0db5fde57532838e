"""Shares of a feature set: where each is written, and how they become one set again."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dino_infer.errors import DataError
from dino_infer.features.files import (
    FeaturePaths,
    Features,
    check_folder,
    failures_in,
    feature_paths,
    read_set,
)
from dino_infer.features.output import Outcome, Output, enter, outcome_in, outcome_of
from dino_infer.features.table import table_rows
from dino_infer.features.unfinished import (
    check_same_job,
    discard,
    finished,
    is_being_moved,
    job_in,
    recover_unfinished,
)
from dino_infer.features.writer import FeatureWriter
from dino_infer.files import hold_output
from dino_infer.images.read import ImageFailure
from dino_infer.sources.rows import names_fingerprint

LAUNCHERS = (  # number of this process, number of all, first number
    ("RANK", "WORLD_SIZE", None),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("SLURM_PROCID", "SLURM_NTASKS", None),
)


@dataclass(frozen=True)
class Share:
    """Part ``index`` of ``count``, from 0."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def slice_of(self, total: int, *, step: int) -> range:
        """The consecutive items of this share; shares begin at multiples of ``step``.

        So batches hold the same images whatever the number of shares, and rows stay the same bit
        for bit.
        """
        steps = -(-total // step)
        start, stop = (steps * at // self.count * step for at in (self.index, self.index + 1))
        return range(min(start, total), min(stop, total))


def share_of(text: str, environment: Mapping[str, str] | None = None) -> Share:
    """The share that a flag means: "2/8" the third of eight, "auto" what torchrun or SLURM set.

    Raises:
        ValueError: The text is of another form or the share is out of range; with "auto", no
            launcher says which share this is.
    """
    if text == "auto":
        return _of_launcher(os.environ if environment is None else environment)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise ValueError(f"a shard is INDEX/COUNT from 0, such as 0/8, or auto; got {text!r}")
    return _checked(int(found[1]), int(found[2]), text)


def launched_with(environment: Mapping[str, str] | None = None) -> int:
    """Number of processes that torchrun started for this job; 1 without it."""
    return int((os.environ if environment is None else environment).get("WORLD_SIZE", "1"))


def device_of_share(device: str, environment: Mapping[str, str] | None = None) -> str:
    """The device meant by "auto" when torchrun started one process for each GPU of a machine."""
    local_rank = (os.environ if environment is None else environment).get("LOCAL_RANK")
    if device != "auto" or local_rank is None:
        return device
    import torch

    gpus = torch.cuda.device_count()
    return f"cuda:{int(local_rank) % gpus}" if gpus else "cpu"


def _of_launcher(environment: Mapping[str, str]) -> Share:
    for index, count, first in LAUNCHERS:
        if index in environment and count in environment:
            start = int(environment.get(first, "0")) if first else 0
            number, total = int(environment[index]) - start, int(environment[count])
            return _checked(number, total, f"{index}={environment[index]}")
    names = ", ".join(f"{index} and {count}" for index, count, _ in LAUNCHERS)
    raise ValueError(f"shard auto needs one of {names} in the environment; pass INDEX/COUNT")


def _checked(index: int, count: int, text: str) -> Share:
    if not 0 <= index < count:
        raise ValueError(f"a shard must lie in 0/{count} to {count - 1}/{count}, got {text!r}")
    return Share(index, count)


ROWS_AT_ONCE = 4096


class _Part(NamedTuple):
    """A finished share."""

    share: Share
    paths: FeaturePaths
    features: Features
    failures: list[ImageFailure]

    @property
    def images(self) -> int:
        """Images of the list that it is of."""
        return int(self.features.manifest["images"])


def merge_shares(out: str | Path, *, overwrite: bool) -> Outcome:
    """Join the finished shares of ``embed_to_file`` into the set that one process would have made.

    Raises:
        DataError: A share is missing, unfinished or damaged, is not the one that its name says, or
            is of another job.
        OutputInUseError: Another process writes the set or one of its shares.
    """
    paths = feature_paths(out)
    check_folder(paths.matrix.parent)
    shares = _shares(paths)
    with ExitStack() as held:
        for files in (paths, *(share_paths(out, share) for share in shares)):
            held.enter_context(hold_output(files.manifest))
        parts = [_part(share, share_paths(out, share)) for share in shares]
        job = _whole_job(parts)
        if not _make_room(paths, job, overwrite=overwrite):
            return outcome_in(finished(paths) or {})
        return _join(parts, paths, job)


def _make_room(paths: FeaturePaths, job: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Clear the way for a set; False if it is there, as a stop at the last steps leaves it."""
    moved = is_being_moved(paths)
    begun = recover_unfinished(paths)
    if moved and not begun:
        done = finished(paths) or {}
        if all(done.get(name) == value for name, value in job.items()):
            return False
    if begun and job_in(paths.partial) == job:  # what it held can be merged again
        discard(paths)
    enter(paths, Output(overwrite=overwrite))
    return True


def _join(parts: Sequence[_Part], paths: FeaturePaths, job: Mapping[str, Any]) -> Outcome:
    labelled = all(part.features.labels is not None for part in parts)
    writer = FeatureWriter(paths, job=job, dtype=job["dtype"], labelled=labelled)
    try:
        for part in parts:
            _append_all(writer, part)
    except BaseException:
        writer.close()
        raise
    writer.finish()
    return outcome_of(writer)


def share_paths(out: str | Path, share: Share) -> FeaturePaths:
    """Return the output paths of one share of a job: ``feats.shard-2-of-8.npy``."""
    paths = feature_paths(out)
    if share.count == 1:
        return paths
    return feature_paths(_share_file(paths, share))


def _share_file(paths: FeaturePaths, share: Share) -> Path:
    name = f"{paths.matrix.stem}.shard-{share.index}-of-{share.count}{paths.matrix.suffix}"
    return paths.matrix.with_name(name)


def _shares(paths: FeaturePaths) -> list[Share]:
    """All shares of a set, in order.

    Raises:
        DataError: There are none, or shares of several counts.
    """
    pattern = re.compile(
        re.escape(paths.matrix.stem) + r"\.shard-(\d+)-of-(\d+)" + re.escape(paths.matrix.suffix)
    )
    names = [file.name for file in paths.matrix.parent.iterdir()]
    counts = {int(found[2]): name for name in sorted(names) if (found := pattern.fullmatch(name))}
    if len(counts) != 1:
        wanted = _share_file(paths, Share(0, 2)).name
        found_names = f": {', '.join(sorted(counts.values()))}" if counts else ""
        raise DataError(
            f"expected the shards of one job beside {str(paths.matrix)!r}, such as {wanted!r}, "
            f"got shards of {sorted(counts) or 'none'}{found_names}"
        )
    [count] = counts
    return [Share(index, count) for index in range(count)]


def _part(share: Share, paths: FeaturePaths) -> _Part:
    """A share, once it is sure that it is whole and the one of its name.

    Raises:
        DataError: It is not.
    """
    name = str(paths.matrix)
    if recover_unfinished(paths):
        raise DataError(f"{name!r} is unfinished: run shard {share} again with `resume=True` first")
    features = read_set(paths, verify=True)
    failures = list(failures_in(paths.failures))
    manifest = features.manifest
    told = manifest.get("shard")
    if told != str(share):
        raise DataError(f"{name!r} holds shard {told!r}, not {str(share)!r}: run that one again")
    rows = manifest["images"] - (0 if manifest.get("on_error") == "nan" else len(failures))
    if len(failures) != manifest["failed"] or len(features.matrix) != rows:
        raise DataError(
            f"{name!r} has {len(features.matrix)} rows and {len(failures)} failures of "
            f"{manifest['images']} images: run shard {share} again"
        )
    return _Part(share, paths, features, failures)


def _whole_job(parts: Sequence[_Part]) -> dict[str, Any]:
    """The job that the shares are of.

    Raises:
        DataError: They are of several, or are not every image of the list once and in order.
    """
    first = _shared_job(parts[0].features.manifest)
    for part in parts:
        check_same_job(first, _shared_job(part.features.manifest), where=part.paths.matrix)
    total, step = sum(part.images for part in parts), first.get("batch_size")
    if type(step) is not int or step < 1:
        raise DataError(f"{str(parts[0].paths.manifest)!r} tells of no batch size; embed again")
    tables: dict[str, _Part] = {}
    for part in parts:
        name, expected = str(part.paths.matrix), len(part.share.slice_of(total, step=step))
        if part.images != expected:
            raise DataError(
                f"{name!r} is of {part.images} images, shard {part.share} of {total} images has "
                f"{expected}: run it again"
            )
        table = part.features.manifest["files_sha256"][part.paths.table.name]
        twin = tables.setdefault(table, part)
        if twin is not part and len(part.features.matrix):
            raise DataError(f"{name!r} has the rows of {str(twin.paths.matrix)!r}: run it again")
    _check_names(parts, first)
    return {"images": total} | first


def _check_names(parts: Sequence[_Part], job: Mapping[str, Any]) -> None:
    """Compare the names of all rows with the list, where no image failed.

    The tables do not tell where among their rows an image failed.
    """
    if any(len(part.features.matrix) != part.images for part in parts):
        return
    names = [os.fsencode(name) for part in parts for name in part.features.paths]
    sources = np.array(
        [row.source for part in parts for row in table_rows(part.paths.table)], dtype=np.int32
    )
    lengths = np.array([len(name) for name in names], dtype=np.int32)
    if names_fingerprint(lengths, b"".join(names), sources) != job.get("images_fingerprint"):
        raise DataError(
            f"{str(parts[0].paths.matrix)!r} and the other shards do not hold the images of their "
            "list in order: run them again"
        )


def _shared_job(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a share's manifest that describe the whole job."""
    own = {"format_version", "rows", "dim", "shape", "row_order", "failed", "files_sha256"}
    own |= {"images", "shard"}
    return {name: value for name, value in manifest.items() if name not in own}


def _append_all(writer: FeatureWriter, part: _Part) -> None:
    """Append a finished set to one being written."""
    matrix, rows = part.features.matrix, table_rows(part.paths.table)
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        features = matrix[start : start + ROWS_AT_ONCE]
        writer.append(features, list(islice(rows, len(features))), [], images=len(features))
    writer.append(matrix[:0], [], part.failures, images=part.images - len(matrix))
