"""Embedding a list into files: one set, a share of it, or a folder of partitions."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

from dino_infer import __version__
from dino_infer.embedding.embedder import Embedder, Embedding
from dino_infer.errors import DataError
from dino_infer.features.embed_set import EmbedWork
from dino_infer.features.files import (
    FeaturePaths,
    check_folder,
    class_names,
    feature_paths,
    partition_paths,
)
from dino_infer.features.output import Outcome, Output, enter
from dino_infer.features.shards import Share, share_paths
from dino_infer.features.table import TableRow
from dino_infer.features.unfinished import discard
from dino_infer.features.writer import FeatureWriter
from dino_infer.files import hold_output, make_folder
from dino_infer.sources.image_list import ImageList


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
        embedder: Maker of the features.
        images: The whole list.
        out: ``.npy``, ``.safetensors`` or ``.parquet``; a share's files carry its number.
        output: Layout of the stored rows.
        share: Part of the list.

    Raises:
        DataError: The output exists, is of another job, or cannot be written; with
            ``on_error="fail"``, an image cannot be read; a table is asked to hold matrices.
        OutputInUseError: Another process writes there.
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
    with hold_output(paths.manifest):
        return EmbedWork(embedder, images, class_names(images), part, paths, job, output).run()


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
        embedder: Maker of the features.
        images: The whole list.
        out: The folder; made if need be.
        partition_size: Images of the list in a partition; a multiple of the batch size keeps rows
            the same bit for bit whatever the size.
        output: Layout of the stored rows; partitions cannot be updated.
        share: Partitions to make: shares are whole ones, so nothing has to be merged.

    Raises:
        DataError: The same as for ``embed_to_file``.
    """
    folder = Path(out)
    make_folder(folder)
    # The partitions of a share are its own; shares of other counts meet at single partitions.
    whole = share.count == 1
    with hold_output(folder if whole else folder / f"shard-{share.index}-of-{share.count}"):
        return _embed_partitions(embedder, images, folder, partition_size, output, share)


def _embed_partitions(
    embedder: Embedder,
    images: ImageList,
    folder: Path,
    partition_size: int,
    output: Output,
    share: Share,
) -> Outcome:
    starts = range(0, len(images), partition_size)
    _clear_others(folder, len(starts), overwrite=output.overwrite)
    job, labels = job_of(embedder, images, output), class_names(images)
    outcome = Outcome()
    for number in share.slice_of(len(starts), step=1):
        paths = partition_paths(folder, number, count=len(starts))
        for file in paths:
            make_folder(file.parent)
        part = range(starts[number], min(starts[number] + partition_size, len(images)))
        own = {"images": len(part), **job, "partition": f"{number}/{len(starts)}"}
        work = EmbedWork(
            embedder, images, labels, part, paths, own, output, path_column="image_path"
        )
        with hold_output(paths.manifest):
            outcome += work.run()
    return outcome


def job_of(embedder: Embedder, images: ImageList, output: Output) -> dict[str, Any]:
    """Return everything that the rows of a set depend on."""
    versions = {"dino-toolkit": __version__, "torch": torch.__version__, "pillow": PIL.__version__}
    return {
        **_listed(images),
        "dtype": output.dtype,
        "on_error": output.on_error,
        **embedder.description(),
        "batch_size": embedder.batch_size,
        "versions": versions,
    }


def _listed(images: ImageList) -> dict[str, Any]:
    """Return the identity of a list of images."""
    return {"images_fingerprint": images.fingerprint(), "sources": list(images.sources)}


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
        description: Description of their making, see ``Embedder.description``.

    Raises:
        DataError: They cannot be written.
    """
    paths = feature_paths(path)
    job = {"images": len(images), **_listed(images), "dtype": "float32", **description}
    try:
        with hold_output(paths.manifest):
            _write_in_memory(paths, embedding, images, job)
    except OSError as error:
        raise DataError(f"cannot write features to {str(path)!r}: {error.strerror}") from error


def _write_in_memory(
    paths: FeaturePaths, embedding: Embedding, images: ImageList, job: Mapping[str, Any]
) -> None:
    enter(paths, Output(overwrite=True))
    try:
        labels = class_names(images)
        writer = FeatureWriter(paths, job=job, labelled=labels is not None)
        places = np.flatnonzero(embedding.ok).tolist()
        rows = [
            TableRow(
                images.name(place),
                file,
                label=None if labels is None else labels[place],
                source=images.source(place),
            )
            for place, file in zip(places, embedding.files, strict=True)
        ]
        writer.append(embedding.features, rows, embedding.failures, images=len(images))
        writer.finish()
    except OSError:
        discard(paths)
        raise


def _clear_others(folder: Path, count: int, *, overwrite: bool) -> None:
    """Delete partitions beyond the last, which readers of the folder would take for rows of it.

    Raises:
        DataError: There are some, and nothing may be replaced.
        OutputInUseError: Another process writes one of them.
    """
    for paths in sorted(set(_partitions_from(folder, count))):
        if not overwrite:
            raise DataError(
                f"{str(folder)!r} holds {paths.matrix.name!r}, but there are only {count} "
                "partitions now; pass `overwrite=True`, or another `out`"
            )
        with hold_output(paths.manifest):
            discard(paths)
            for file in paths:
                file.unlink(missing_ok=True)


def _partitions_from(folder: Path, first: int) -> Iterator[FeaturePaths]:
    """The partitions of a folder from a number on, finished or not."""
    name = re.compile(r"(?:img_emb|manifest)_(\d{4,})\.(?:npy|npy\.partial|json)")
    for file in (*folder.glob("img_emb/*"), *folder.glob("manifests/*")):
        found = name.fullmatch(file.name)
        if found and int(found[1]) >= first:
            # As many digits as the name has: a folder of more partitions had longer ones.
            yield partition_paths(folder, int(found[1]), count=10 ** len(found[1]))
