"""Options that several verbs of dino-index share, and the embedder and filter they ask for."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dino_infer.choices import VectorFeature
from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import (
    DEFAULT_WEIGHTS,
    ComputeOptions,
    TableOptions,
    ViewOptions,
    WeightOptions,
    load_embedder,
)

if TYPE_CHECKING:
    from dino_app.store.filters import Filter
    from dino_app.store.interface import Store
    from dino_infer.embedding.embedder import Embedder

Flag = tyro.conf.FlagCreatePairsOff[bool]
Index = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="INDEX")]
"""A folder, or milvus:FILE.db/COLLECTION, or milvus:http://HOST:PORT/COLLECTION."""
Sources = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(metavar="SOURCE ...", help_behavior_hint="(required)"),
]


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Thumbnails to show beside results."""

    thumbnails: int | None = None
    """Longest side of a thumbnail in pixels; by default 256, 0 makes none."""
    images: str | None = None
    """Images of a features file, to make their thumbnails from; by default none are made."""

    def __post_init__(self) -> None:
        if self.thumbnails is not None and not 0 <= self.thumbnails <= 1024:
            raise UsageError(f"--thumbnails must be from 0 to 1024, got {self.thumbnails}")
        if self.thumbnails == 0 and self.images is not None:
            raise UsageError("--images is for thumbnails; leave --thumbnails 0 or --images out")

    @property
    def side(self) -> int:
        """Longest side in pixels; 0 for none."""
        from dino_app.indexing.thumbnails import LONGEST_SIDE

        return LONGEST_SIDE if self.thumbnails is None else self.thumbnails


@dataclass(frozen=True, kw_only=True)
class FillOptions:
    """Options of the verbs that put images or features into an index."""

    weights: WeightOptions
    view: ViewOptions
    compute: ComputeOptions
    tables: TableOptions
    pictures: PictureOptions
    feature: VectorFeature | None = None

    def embedder(self, model: Mapping[str, Any] | None) -> "Embedder":
        """The embedder that made an index, or the one for a new index."""
        if model is not None:
            return index_embedder(
                model, self.weights, self.compute, self.view, feature=self.feature
            )
        embedder: Embedder = load_embedder(
            self.weights, self.compute, self.view, feature=self.feature or "cls"
        )
        return embedder


@contextmanager
def open_index(location: str, *, writable: bool = False) -> "Iterator[Store]":
    """Open an index, and close it after the block."""
    from dino_app.store.opening import open_store

    with closing(open_store(location, writable=writable)) as store:
        yield store


def index_embedder(
    model: Mapping[str, Any],
    weights: WeightOptions,
    compute: ComputeOptions,
    view: ViewOptions | None = None,
    *,
    feature: str | None = None,
) -> "Embedder":
    """The embedder that made an index; flags that would change it are refused.

    Raises:
        UsageError: Neither the index nor a flag tells the weights.
        ModelMismatchError: The embedder is another than the one that made the index.
    """
    from dino_app.store.model_match import check_model

    name = weights.weights or model.get("weights")
    if not name:
        raise UsageError("the index does not say with which weights it was made; pass --weights")
    stored = str(model.get("feature", "cls")).replace("pooled", "cls")  # of a convnet
    embedder: Embedder = load_embedder(
        replace(weights, weights=str(name)),
        compute,
        _same_view(view or ViewOptions(), model.get("preprocess") or {}),
        feature=feature or stored,
    )
    check_model(model, embedder.description())
    return embedder


def check_given(model: Mapping[str, Any], given: FillOptions) -> None:
    """Refuse flags that say otherwise than features which are there already.

    Weights that are not on this machine are believed: they only tell where others find them.

    Raises:
        UsageError: The feature or the view is another.
        ModelMismatchError: The weights are others.
    """
    made = {"feature": model.get("feature"), **(model.get("preprocess") or {})}
    weights, view = given.weights, given.view
    for name, value in (("feature", given.feature), ("size", view.size), ("crop", view.crop)):
        made[name] = "cls" if made.get(name) == "pooled" else made.get(name)  # of a convnet
        if value is not None and value != made[name]:
            raise UsageError(
                f"the features were made with {name} {made[name]!r}, not {value!r}; leave "
                f"--{name} out, or embed again"
            )
    if view.exact_decode and not made.get("exact_decode"):
        raise UsageError("the features were made without --exact-decode; leave it out")
    if (view.max_megapixels, view.max_file_mb) != (None, None):
        raise UsageError("--max-megapixels and --max-file-mb are for images; none is read here")
    if weights.weights is None and (weights, given.compute) != (
        WeightOptions(),
        ComputeOptions(),
    ):
        raise UsageError(
            "flags about how to load and run the network are for images or go with --weights; "
            "nothing is embedded here"
        )
    if weights.weights is not None and os.path.exists(weights.weights):
        given.embedder(model)


def model_of(embedder: "Embedder", weights: WeightOptions) -> dict[str, Any]:
    """Description of an embedder to store in an index, with a hint where to find its weights."""
    return {**embedder.description(), "weights": located(weights.weights or DEFAULT_WEIGHTS)}


def located(weights: str) -> str:
    """Weights by a name that means the same from any folder."""
    return os.path.abspath(weights) if os.path.exists(weights) else weights


def parsed_condition(written: str | None) -> "Filter | None":
    """The filter of a flag.

    Raises:
        UsageError: It is none.
    """
    from dino_app.store.filters import FilterError, parsed_filter

    if written is None:
        return None
    try:
        return parsed_filter(json.loads(written))
    except (FilterError, ValueError, RecursionError) as error:
        raise UsageError(f'--filter: {error}; write JSON such as \'{{"label": "cat"}}\'') from error


def _same_view(view: ViewOptions, stored: Mapping[str, Any]) -> ViewOptions:
    """View options stored in the index, overridden by the flags that were given."""
    size = stored.get("size")
    return replace(
        view,
        size=view.size or (size if isinstance(size, int) else None),
        crop=view.crop or stored.get("crop"),
        exact_decode=view.exact_decode or stored.get("exact_decode", False),
    )
