"""dino-embed: images to a feature matrix, a table with the same rows, and a manifest."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from dino_infer.choices import OnError
from dino_infer.cli.exit_codes import UsageError, exit_code, inputs_code, printable, usage_errors
from dino_infer.cli.options import (
    ComputeOptions,
    FeatureName,
    Images,
    TableOptions,
    ViewOptions,
    WeightOptions,
    check_images,
    check_out,
    check_positive,
    load_embedder,
)
from dino_infer.cli.parsing import parsed
from dino_infer.cli.plan import FLAG, plan_of_embedding

if TYPE_CHECKING:
    from dino_infer.features.shards import Share

logger = logging.getLogger(__name__)

Flag = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Vector that stands for an image."""

    feature: FeatureName = "cls"
    """[CLS] token (of a convnet the pooled features), mean of the patch tokens, both, generalised
    mean (power 4), [CLS] and it, [CLS] tokens of the last N blocks, these and the mean, or all
    patch tokens."""
    normalize: Flag = False
    """Scale each feature to length 1."""
    dtype: Literal["float32", "float16"] = "float32"
    """Data type of the stored numbers."""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Parts of the work, and work that was done before."""

    resume: Flag = False
    """Continue an interrupted run; the finished files are the same, byte for byte."""
    overwrite: Flag = False
    """Replace existing files."""
    update: Flag = False
    """Update an existing file: embed new and changed images, drop those that are gone."""
    shard: str | None = None
    """Part of the work to do, INDEX/COUNT from 0, or auto for the part that torchrun or SLURM set.
    Writes FEATS.shard-0-of-8.npy and the like, for --merge."""
    merge: Flag = False
    """Join the finished shards of FEATS into FEATS; takes no images."""
    partition_size: int | None = None
    """Images in each partition of a folder; by default 1,000,000."""
    on_error: OnError = "skip"
    """Treatment of an image that cannot be read: no row, an end of the run, or a row of NaN."""
    dry_run: Flag = False
    """Print the plan of the work, and stop."""

    def __post_init__(self) -> None:
        check_positive("--partition-size", self.partition_size)
        chosen = [name for name in ("resume", "update") if getattr(self, name)]
        if self.overwrite and chosen:
            raise UsageError(f"--overwrite contradicts --{chosen[0]}: pass one of them")
        given = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        idle = [name for name in given if name not in ("merge", "overwrite")]
        if self.merge and idle:
            flag = idle[0].replace("_", "-")
            raise UsageError(f"--merge joins finished shards; leave --{flag} out")


PARTITION_SIZE = 1_000_000
NOTHING_EMBEDDED = (
    WeightOptions(), FeatureOptions(), TableOptions(), ViewOptions(), ComputeOptions(),
)  # fmt: skip


def embed(
    images: Images,
    *,
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])],
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    features: tyro.conf.OmitArgPrefixes[FeatureOptions] = FeatureOptions(),
    tables: tyro.conf.OmitArgPrefixes[TableOptions] = TableOptions(),  # noqa: B008
    view: tyro.conf.OmitArgPrefixes[ViewOptions] = ViewOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    job: tyro.conf.OmitArgPrefixes[JobOptions] = JobOptions(),
) -> int:
    """Turn images into features.

    Writes FEATS.npy (one row an image), FEATS.parquet (path, size, hash and label of each row),
    FEATS.json (how they were made) and FEATS.failed.jsonl (images that could not be read). With
    -o FEATS.safetensors or FEATS.parquet the rows are in that file; with -o FOLDER/ they are in
    partitions that autofaiss and embedding-reader read.

    dino-embed --plan --images N prints machines, hours, storage and money of a large job instead.

    Args:
        images: Folders, images, .txt files that list images, WebDataset .tar files, .parquet tables
            with images or paths, or quoted patterns such as "photos/**/*.jpg".
        out: File to write, .npy, .safetensors or .parquet, or a folder.
        weights: Weights of the network; by default timm:vit_small_patch16_224.dino.
        features: Vector that stands for an image.
        tables: Reading of image tables.
        view: Part and size of an image that the network sees.
        compute: Execution of the network.
        job: Parts of the work, and work that was done before.
    """
    if job.merge:
        if not images and (weights, features, tables, view, compute) != NOTHING_EMBEDDED:
            raise UsageError("--merge embeds nothing: leave out flags about networks and images")
        return _merged(images, out, job)
    check_images(images)
    from dino_infer.features.files import feature_paths
    from dino_infer.sources.image_list import list_images

    share = _share(job.shard)
    if share.count > 1:
        from dino_infer.features.shards import device_of_share

        compute = replace(compute, device=device_of_share(compute.device))
    to_folder = _is_folder(out)
    if job.partition_size is not None and not to_folder:
        raise UsageError("--partition-size is for folders; pass -o FOLDER/")
    if to_folder and job.update:
        raise UsageError("--update is for a single file; partitions cannot be updated")
    check_out(out)
    if not to_folder:
        feature_paths(out)  # refuses other endings before anything is loaded
    listed = list_images(images, image_column=tables.image_column)
    embedder = load_embedder(
        weights, compute, view, feature=features.feature, normalize=features.normalize
    )
    if job.dry_run:
        return _described(embedder, listed, out, share, features)
    return _done(_run(embedder, listed, out, share, features, job, to_folder=to_folder), out, share)


def _run(
    embedder: Any,
    listed: Any,
    out: str,
    share: "Share",
    features: FeatureOptions,
    job: JobOptions,
    *,
    to_folder: bool,
) -> Any:
    from dino_infer.features.job import embed_to_file, embed_to_folder
    from dino_infer.features.output import Output

    output = Output(
        dtype=features.dtype,
        on_error=job.on_error,
        resume=job.resume,
        overwrite=job.overwrite,
        update=job.update,
    )
    if to_folder:
        return embed_to_folder(
            embedder,
            listed,
            out,
            partition_size=job.partition_size or PARTITION_SIZE,
            output=output,
            share=share,
        )
    return embed_to_file(embedder, listed, out, output=output, share=share)


def _merged(images: tuple[str, ...], out: str, job: JobOptions) -> int:
    if images:
        raise UsageError(f"--merge takes no images, got {printable(images[0])!r}")
    if _is_folder(out):
        raise UsageError("--merge joins the shards of a file; partitions of a folder need none")
    from dino_infer.features.shards import Share, merge_shares

    return _done(merge_shares(out, overwrite=job.overwrite), out, Share())


def _done(outcome: Any, out: str, share: "Share") -> int:
    """Report the outcome of the job."""
    if outcome.rows:
        more = f" of shard {share}" if share.count > 1 else ""
        if share.count == 1 and not _is_folder(out):
            from dino_infer.features.files import feature_paths

            _, *others = dict.fromkeys(path.name for path in feature_paths(out))
            more = f", with {printable(', '.join(others))}"
        print(f"{printable(out)}: {outcome.rows} rows of {outcome.dim}{more}")
    if outcome.failed:
        logger.warning(
            "%d of %d images could not be read; they are listed, with the reasons, in the failures "
            "beside the features",
            outcome.failed,
            outcome.images,
        )
    return inputs_code(total=outcome.images, failed=outcome.failed)


def _described(
    embedder: Any, listed: Any, out: str, share: "Share", features: FeatureOptions
) -> int:
    """Print a description of the job to stdout."""
    import numpy as np

    count = len(share.slice_of(len(listed), step=embedder.batch_size))
    shape = (count, *embedder.feature_shape)
    size_mb = np.prod(shape, dtype=np.float64) * np.dtype(features.dtype).itemsize / 1e6
    made = embedder.description()
    print(f"images: {len(listed)}" + (f", shard {share}: {count}" if share.count > 1 else ""))
    print(f"network: {made['arch']}, {made['precision']}, on {embedder.device}")
    print(f"feature: {made['feature']}, {' x '.join(map(str, shape[1:]))}")
    print(f"output: {printable(out)}, {features.dtype}, {size_mb:.1f} MB")
    return 0


def _share(shard: str | None) -> "Share":
    from dino_infer.features.shards import Share, launched_with, share_of

    if shard is None:
        if launched_with() > 1:
            raise UsageError(
                f"{launched_with()} processes would write the same file; pass --shard auto"
            )
        return Share()
    with usage_errors():
        return share_of(shard)


def _is_folder(out: str) -> bool:
    import os.path

    return out.endswith("/") or os.path.isdir(out) or not os.path.splitext(out)[1]


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-embed and return its exit code."""
    return exit_code(_main, prog="dino-embed", args=args)


def _main(args: list[str]) -> int:
    if FLAG in args:
        return plan_of_embedding(args)
    return parsed(embed, prog="dino-embed", args=args)  # type: ignore[no-any-return]
