"""Flags of the protocols that classify, and the labelled features that they ask for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from dino_infer.cli.exit_codes import UsageError, usage_errors
from dino_infer.cli.options import (
    DEFAULT_WEIGHTS,
    ComputeOptions,
    CropOptions,
    LimitOptions,
    TableOptions,
    ViewOptions,
    WeightOptions,
    load_embedder,
)
from dino_infer.cli.protocols.shared import ReportOptions, load

if TYPE_CHECKING:
    from dino_infer.evaluate.contestants import Contestant
    from dino_infer.evaluate.knn import Sides


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Labels of the images."""

    train_labels: Path | None = None
    """CSV file with the header path,label that names the class of each training image."""
    val_labels: Path | None = None
    """CSV file with the header path,label that names the class of each image to classify."""


@dataclass(frozen=True, kw_only=True)
class _Images:
    train: str
    """Labelled training images: a feature file of dino-embed, or images in class folders or with
    --train-labels."""
    val: str
    """Labelled images to classify, in the same forms as --train; nothing is chosen by them."""


@dataclass(frozen=True, kw_only=True)
class LabelledOptions(LabelOptions, _Images):
    """Images and their labels."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Network that embeds folders of images; by default timm:vit_small_patch16_224.dino."""

    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = field(default_factory=WeightOptions)
    """Weights of the network; by default timm:vit_small_patch16_224.dino."""
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = field(default_factory=ComputeOptions)
    """Execution of the network, and device of the training."""
    tables: tyro.conf.OmitArgPrefixes[TableOptions] = field(default_factory=TableOptions)
    """Reading of image tables."""
    view: tyro.conf.OmitArgPrefixes[CropOptions] = field(default_factory=CropOptions)
    """Part and size of an image that the network sees."""
    limits: tyro.conf.OmitArgPrefixes[LimitOptions] = field(default_factory=LimitOptions)
    """Limits of images."""

    @property
    def source(self) -> str:
        """Weights that were asked for."""
        return self.weights.weights or DEFAULT_WEIGHTS

    def contestants(self, report: ReportOptions) -> "Sequence[Contestant]":
        """The network, its untrained twin and the raw pixels, as the flags ask for them."""
        from dino_infer.evaluate.contestants import Exported, with_pixels

        if not self.source.endswith(".onnx"):
            return with_pixels(load(self.weights, self.compute, self.limits, report))
        whole = ViewOptions(**vars(self.view), **vars(self.limits), exact_decode=True)
        embedder = load_embedder(self.weights, self.compute, whole)
        return with_pixels([Exported(made=embedder)], floors=not report.no_floors)


def labelled_sides(
    train: str,
    val: str | None,
    *,
    labels: LabelOptions,
    network: NetworkOptions,
    report: ReportOptions,
    feature: str | None = None,
    default: str | None = "cls",
) -> "dict[str, Sides]":
    """Labelled features of the network and of its floors.

    Args:
        train: Feature file, or a source of images.
        val: The same; None for none.
        labels: Files that name the classes.
        network: Network that embeds the images.
        report: Floors, seed and cache.
        feature: Feature of the network, where it was asked for.
        default: Feature where none was asked for; None takes that of the published linear
            evaluation.

    Raises:
        UsageError: Flags about networks beside feature files, or a feature that there is not.
        DataError: There are no labels, no rows, or the files cannot be used.
    """
    from dino_infer.evaluate.contestants import MODEL, Network
    from dino_infer.evaluate.data.labelled import is_feature_file
    from dino_infer.evaluate.knn import sides_of
    from dino_infer.evaluate.linear import published_feature

    files = [is_feature_file(source) for source in (train, val) if source is not None]
    compute = replace(network.compute, device="auto")
    if all(files) and replace(network, compute=compute) != NetworkOptions():
        raise UsageError("flags about networks and images are for images; nothing is embedded")
    if feature is not None and all(files):
        raise UsageError("--feature is for images; feature files hold theirs")
    contestants = () if all(files) else network.contestants(report)
    feature = feature or default
    if contestants and feature is None:
        first = contestants[0]
        feature = published_feature(first.backbone) if isinstance(first, Network) else "cls"
    with usage_errors():
        sides = sides_of(
            train,
            val,
            # A file holds the features of one network, so there are no others to compare with.
            contestants=contestants[:1] if any(files) else contestants,
            label_files=(labels.train_labels, labels.val_labels),
            image_column=network.tables.image_column,
            feature=feature,
            size=network.view.size,
            crop=network.view.crop or "center",
        )
    if contestants:
        path = Path(network.source)
        source = str(path.absolute()) if path.exists() else network.source
        made: dict[str, Any] = {**sides[MODEL].train.description, "weights": source}
        bank = sides[MODEL].train._replace(description=made)
        sides[MODEL] = sides[MODEL]._replace(train=bank)
    return sides
