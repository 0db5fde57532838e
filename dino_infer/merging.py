"""Shares of a feature set: where each is written, and how they become one set again."""

import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from dino_infer.errors import DataError
from dino_infer.feature_writer import (
    FeatureWriter,
    check_same_job,
    discard,
    failures_in,
    unfinished,
)
from dino_infer.features import FeaturePaths, Features, feature_paths, read_features
from dino_infer.outputs import Outcome, Output, enter, outcome_of
from dino_infer.row_table import table_rows
from dino_infer.shares import Share

ROWS_AT_ONCE = 4096


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
    if unfinished(paths):  # what it held can be merged again
        discard(paths)
    enter(paths, Output(overwrite=overwrite))
    labelled = all(part.labels is not None for part in parts)
    writer = FeatureWriter(paths, job=job, dtype=job["dtype"], labelled=labelled)
    for share, part in zip(_share_files(paths), parts, strict=True):
        _append_all(writer, share, part)
    writer.finish()
    return outcome_of(writer)


def share_paths(out: str | Path, share: Share) -> FeaturePaths:
    """Where one share of a job writes: ``feats.shard-2-of-8.npy``."""
    paths = feature_paths(out)
    if share.count == 1:
        return paths
    return feature_paths(_share_file(paths, share))


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
