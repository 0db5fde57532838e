"""dino-eval knn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from dino_infer.cli.exit_codes import UsageError
from dino_infer.cli.options import (
    ComputeOptions,
    CropOptions,
    LimitOptions,
    TableOptions,
    ViewOptions,
    WeightOptions,
    check_positive,
    load_embedder,
)
from dino_infer.cli.protocols.shared import ReportOptions, load, show

if TYPE_CHECKING:
    from dino_infer.evaluate.contestants import Contestant
    from dino_infer.evaluate.reports.result import Result


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """Labels of the images."""

    train_labels: Path | None = None
    """CSV file with the header path,label that names the class of each training image."""
    val_labels: Path | None = None
    """CSV file with the header path,label that names the class of each image to classify."""


@dataclass(frozen=True, kw_only=True)
class FewShotOptions:
    """Accuracy with few training images."""

    n_per_class: tuple[int, ...] = ()
    """Numbers of training images a class to classify with as well; by default none."""
    tries: int | None = None
    """Number of random draws of those images; by default 5."""

    def __post_init__(self) -> None:
        for count in self.n_per_class:
            check_positive("--n-per-class", count)
        if not self.n_per_class and self.tries is not None:
            raise UsageError("--tries is for the draws of --n-per-class; pass it too")
        if self.tries is not None and self.tries < 2:
            raise UsageError(f"--tries must be at least 2 to tell a spread, got {self.tries}")


def knn(
    *,
    train: str,
    val: str | None = None,
    k: tuple[int, ...] = (10, 20, 100, 200),
    temperature: float = 0.07,
    leave_one_out: tyro.conf.FlagCreatePairsOff[bool] = False,
    labels: tyro.conf.OmitArgPrefixes[LabelOptions] = LabelOptions(),
    few_shot: tyro.conf.OmitArgPrefixes[FewShotOptions] = FewShotOptions(),
    report: tyro.conf.OmitArgPrefixes[ReportOptions] = ReportOptions(),  # noqa: B008
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    tables: tyro.conf.OmitArgPrefixes[TableOptions] = TableOptions(),  # noqa: B008
    view: tyro.conf.OmitArgPrefixes[CropOptions] = CropOptions(),  # noqa: B008
    limits: tyro.conf.OmitArgPrefixes[LimitOptions] = LimitOptions(),  # noqa: B008
) -> int:
    """Classify images by a weighted vote of their nearest neighbours.

    Prints top-1 and top-5 accuracy in percent for each k. With -o it also writes classes.csv
    (accuracy of each class, and what it is taken for) and confusion.png.

    Args:
        train: Labelled neighbours: a feature file of dino-embed, or images in class folders or with
            --train-labels.
        val: Labelled images to classify, in the same forms as --train.
        k: Numbers of neighbours that vote.
        temperature: Temperature of the vote; lower gives the nearest more weight.
        leave_one_out: Classify each training image by all the others, instead of --val.
        labels: Labels of the images.
        few_shot: Accuracy with few training images.
        report: Report, floors and repeatability.
        weights: Weights that embed folders of images; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network, and device of the search.
        tables: Reading of image tables.
        view: Part and size of an image that the network sees.
        limits: Limits of images.
    """
    if leave_one_out == (val is not None):
        raise UsageError("pass either --val or --leave-one-out")
    if val is None and (labels.val_labels is not None or few_shot.n_per_class):
        raise UsageError("--val-labels and --n-per-class need --val")
    if not k or min(k) < 1:
        raise UsageError(f"--k must be at least 1, got {' '.join(map(str, k)) or 'nothing'}")
    if temperature <= 0:
        raise UsageError(f"--temperature must be above 0, got {temperature}")
    from dino_infer.devices import resolved_device
    from dino_infer.evaluate.data.labelled import is_feature_file
    from dino_infer.evaluate.knn import measure_knn, sides_of

    files = [is_feature_file(source) for source in (train, val) if source is not None]
    given = (weights, replace(compute, device="auto"), tables, view, limits)
    idle = (WeightOptions(), ComputeOptions(), TableOptions(), CropOptions(), LimitOptions())
    if all(files) and given != idle:
        raise UsageError("flags about networks and images are for images; nothing is embedded")
    device = resolved_device(compute.device)

    def measure() -> "Result":
        contestants: Sequence[Contestant] = ()
        if not all(files):
            contestants = _contestants(weights, compute, view, limits, report)
        sides = sides_of(
            train,
            val,
            # A file holds the features of one network, so there are no others to compare with.
            contestants=contestants[:1] if any(files) else contestants,
            label_files=(labels.train_labels, labels.val_labels),
            image_column=tables.image_column,
            size=view.size,
            crop=view.crop or "center",
        )
        return measure_knn(
            sides,
            ks=k,
            temperature=temperature,
            n_per_class=few_shot.n_per_class,
            tries=few_shot.tries or 5,
            seed=report.seed,
            device=device,
        )

    return show(measure, report, tables=["few_shot"])


def _contestants(
    weights: WeightOptions,
    compute: ComputeOptions,
    view: CropOptions,
    limits: LimitOptions,
    report: ReportOptions,
) -> "Sequence[Contestant]":
    from dino_infer.evaluate.contestants import Exported, with_pixels

    if weights.weights is None or not weights.weights.endswith(".onnx"):
        return with_pixels(load(weights, compute, limits, report))
    whole = ViewOptions(**vars(view), **vars(limits), exact_decode=True)
    embedder = load_embedder(weights, compute, whole)
    return with_pixels([Exported(embedder=embedder)], floors=not report.no_floors)
