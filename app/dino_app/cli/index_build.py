"""dino-index build, add and delete: the verbs that change the items of an index."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from dino_app.cli.index_options import (
    FillOptions,
    Flag,
    Index,
    PictureOptions,
    Sources,
    check_given,
    located,
    model_of,
    open_index,
    parsed_condition,
)
from dino_app.errors import StoreError
from dino_infer.choices import VectorFeature
from dino_infer.cli.exit_codes import UsageError, inputs_code, printable
from dino_infer.cli.options import (
    ComputeOptions,
    TableOptions,
    ViewOptions,
    WeightOptions,
)

if TYPE_CHECKING:
    from dino_app.indexing.building import Built, Incoming
    from dino_app.indexing.indexes import IndexTarget

logger = logging.getLogger(__name__)


def build(
    sources: Sources,
    *,
    out: Annotated[str, tyro.conf.arg(aliases=["-o"])],
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    feature: VectorFeature | None = None,
    view: tyro.conf.OmitArgPrefixes[ViewOptions] = ViewOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    tables: tyro.conf.OmitArgPrefixes[TableOptions] = TableOptions(),  # noqa: B008
    pictures: tyro.conf.OmitArgPrefixes[PictureOptions] = PictureOptions(),  # noqa: B008
    index: str | None = None,
    prune: Flag = False,
) -> int:
    """Make an index of images, or of features from dino-embed.

    Run it again to go on after a stop, or to bring the index up to date: images whose size and
    time of modification have not changed are skipped. Images that cannot be read are listed, with
    the reasons, in INDEX.failed.jsonl beside the index.

    Args:
        sources: Folders, images, lists, .tar files, .parquet tables or patterns, as for dino-embed;
            or one features file or folder of dino-embed.
        out: Index to write: a folder, or milvus:FILE.db/COLLECTION.
        weights: Weights of the network; by default those that made the index, for a new one
            timm:vit_small_patch16_224.dino.
        feature: Vector that stands for an image, see dino-embed; by default that of the index, for
            a new one cls.
        view: Part and size of an image that the network sees; by default as the index was made.
        compute: Execution of the network.
        tables: Reading of image tables.
        pictures: Thumbnails to show beside results.
        index: Kind of search of a new index: auto (exact while that is fast), the default, flat
            (always exact), or a string for FAISS's index_factory; in Milvus auto, flat or hnsw.
        prune: Take items out of the index whose images are gone from the sources.
    """
    _check_sources(sources)
    from dino_app.indexing.indexes import IndexTarget

    options = FillOptions(
        weights=weights,
        view=view,
        compute=compute,
        tables=tables,
        pictures=pictures,
        feature=feature,
    )
    with closing(IndexTarget(out, index=index)) as target:
        return _fill(target, sources, options, prune=prune)


def add(
    index: Index,
    sources: Sources,
    *,
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    view: tyro.conf.OmitArgPrefixes[ViewOptions] = ViewOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    tables: tyro.conf.OmitArgPrefixes[TableOptions] = TableOptions(),  # noqa: B008
    pictures: tyro.conf.OmitArgPrefixes[PictureOptions] = PictureOptions(),  # noqa: B008
) -> int:
    """Add images, or features from dino-embed, to an index; replaces items of the same path.

    Args:
        index: Folder, or milvus:FILE.db/COLLECTION.
        sources: Images or one features file, as for dino-index build.
        weights: Weights of the network, which must be those that made the index, the default.
        view: Part and size of an image that the network sees; by default as the index was made.
        compute: Execution of the network.
        tables: Reading of image tables.
        pictures: Thumbnails to show beside results.
    """
    _check_sources(sources)
    from dino_app.indexing.indexes import IndexTarget, exists

    missing = StoreError(f"no index at {index!r}; make it with dino-index build")
    if not exists(index):
        raise missing
    options = FillOptions(
        weights=weights, view=view, compute=compute, tables=tables, pictures=pictures
    )
    with closing(IndexTarget(index)) as target:
        if target.model is None:  # deleted by now
            raise missing
        return _fill(target, sources, options, prune=False)


def delete(
    index: Index,
    ids: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    *,
    filter: str | None = None,
) -> int:
    """Take items out of an index.

    Args:
        index: Folder, or milvus:FILE.db/COLLECTION.
        ids: Items to delete, by their paths as they were listed.
        filter: Condition on metadata, whose items are all deleted, as JSON: {"label": "cat"}.
    """
    if bool(ids) == (filter is not None):
        raise UsageError("pass either ids or --filter")
    condition = parsed_condition(filter)
    from dino_app.indexing.indexes import delete_matching

    with open_index(index, writable=True) as store:
        if condition is not None:
            print(f"{delete_matching(store, condition)} items deleted")
            return 0
        there = store.delete(ids)
    print(f"{len(there)} items deleted")
    missing = [id for id in ids if id not in set(there)]
    for id in missing:
        logger.warning("no item %r", id)
    return inputs_code(total=len(ids), failed=len(missing))


def _check_sources(sources: tuple[str, ...]) -> None:
    if not sources:
        raise UsageError("no source given; pass a folder of images, or features of dino-embed")


def _fill(
    target: "IndexTarget", sources: tuple[str, ...], options: FillOptions, *, prune: bool
) -> int:
    from dino_app.indexing.building import fill
    from dino_app.indexing.from_features import is_feature_source
    from dino_app.indexing.indexes import write_failed

    if any(is_feature_source(source) for source in sources):
        job = _feature_job(target, sources, options)
    else:
        job = _image_job(target, sources, options, prune=prune)
    built = fill(
        job.incoming, lambda: target.store(dim=job.dim, model=job.model), total=len(job.ids)
    )
    gone = target.prune(job.ids) if prune else 0
    target.settle()
    write_failed(target.location, built.failures)
    _report(target, built, gone)
    return inputs_code(total=built.images, failed=len(built.failures))


class _Job(NamedTuple):
    """Input of an index build: ids, items and the model that made the vectors."""

    ids: list[str]
    incoming: "Iterator[Incoming]"
    dim: int
    model: Mapping[str, Any]


def _feature_job(target: "IndexTarget", sources: tuple[str, ...], options: FillOptions) -> _Job:
    from dino_app.indexing.building import item_ids
    from dino_app.indexing.from_features import feature_items, feature_source
    from dino_app.store.model_match import check_model
    from dino_infer.sources.image_list import list_images

    if len(sources) > 1:
        raise UsageError("pass one features file or folder alone; add others with dino-index add")
    source, pictures, tables = feature_source(sources[0]), options.pictures, options.tables
    check_given(source.model, options)
    if target.model is not None:
        check_model(target.model, source.model)
    if pictures.images is None and (pictures.thumbnails, tables.image_column) != (None, None):
        raise UsageError(
            "--thumbnails and --image-column go with --images where features are given"
        )
    images = (
        None
        if pictures.images is None
        else list_images(pictures.images, image_column=tables.image_column)
    )
    ids = item_ids(source.names(), location=source.location)
    incoming = feature_items(
        source, ids, known=target.known, images=images, thumbnails=pictures.side
    )
    weights = options.weights.weights
    hint = {} if weights is None else {"weights": located(weights)}
    return _Job(ids, incoming, source.dim, {**source.model, **hint})


def _image_job(
    target: "IndexTarget", sources: tuple[str, ...], options: FillOptions, *, prune: bool
) -> _Job:
    from dino_app.indexing.building import item_ids
    from dino_app.indexing.from_images import image_items, without_stored_files
    from dino_infer.sources.aliases import one_of_each_file
    from dino_infer.sources.image_list import list_images

    if options.pictures.images is not None:
        raise UsageError("--images is for features files; here the images are the source")
    images = list_images(sources, image_column=options.tables.image_column)
    images = images.select(one_of_each_file(images))
    if not prune:  # which takes the other names out
        images = without_stored_files(images, target.known)
    names = (images.name(place) for place in range(len(images)))
    ids = item_ids(names, location=images.location)
    embedder = options.embedder(target.model)
    incoming = image_items(
        embedder, images, ids, known=target.known, thumbnails=options.pictures.side
    )
    return _Job(ids, incoming, embedder.feature_shape[-1], model_of(embedder, options.weights))


def _report(target: "IndexTarget", built: "Built", gone: int) -> None:
    """Print the state of the index on stdout, and failures on stderr."""
    from dino_app.indexing.indexes import failed_path

    if target.known is not None:
        info = target.known.info()
        recall = "" if info.recall_at_10 is None else f", recall@10 {info.recall_at_10:.4f}"
        pruned = f", {gone} pruned" if gone else ""
        print(
            f"{printable(target.location)}: {info.rows} items of {info.dim}, {built.stored} new or "
            f"changed{pruned}; index {info.index}{recall}"
        )
    if built.failures:
        logger.warning(
            "%d of %d images could not be read; they are listed, with the reasons, in %s",
            len(built.failures),
            built.images,
            printable(failed_path(target.location)),
        )
