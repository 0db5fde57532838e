"""dino-embed: images to a feature matrix, a table with the same rows, and a manifest."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from dino_infer.cli.options import (
    ComputeOptions,
    Images,
    WeightOptions,
    check_images,
    load_embedder,
)
from dino_infer.cli.run import exit_code, inputs_code, printable

logger = logging.getLogger(__name__)


def embed(
    images: Images,
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    size: int | None = None,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Turn images into feature vectors.

    Writes FEATS.npy (one row an image), FEATS.parquet (path, size, hash and label of each row),
    FEATS.json (how they were made) and FEATS.failed.jsonl (images that could not be read).

    Args:
        images: Folders, images, .txt files that list images, or WebDataset .tar files.
        out: Feature file to write; its name ends in .npy.
        weights: Which weights to use.
        compute: How to run the network.
        size: Side in pixels of the centre crop; by default that of the training crops.
        overwrite: Replace an existing feature file.
    """
    check_images(images)
    from dino_infer.features import check_writable, write_features
    from dino_infer.images import write_failures
    from dino_infer.listing import list_images

    paths = check_writable(out, overwrite=overwrite)
    listed = list_images(images)
    embedder = load_embedder(weights, compute, size=size)
    embedding = embedder.embed(listed)
    rows, dim = embedding.features.shape
    if rows:
        write_features(out, embedding, listed, description=embedder.description())
        print(f"{printable(out)}: {rows} rows of {dim}")
    else:
        write_failures(paths.failures, embedding.failures)
    if embedding.failures:
        first = embedding.failures[0]
        logger.warning(
            "%d of %d images could not be read, listed in %s; the first: %r: %s",
            len(embedding.failures),
            len(listed),
            paths.failures,
            first.path,
            first.reason,
        )
    return inputs_code(total=len(listed), failed=len(embedding.failures))


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-embed and return its exit code."""
    return exit_code(lambda: tyro.cli(embed, prog="dino-embed", args=args), prog="dino-embed")
