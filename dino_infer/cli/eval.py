"""dino-eval: the quality of features, by the published protocols."""

import functools
import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from dino_infer.cli.exit_codes import UsageError, exit_code, inputs_code, printable
from dino_infer.cli.options import (
    ComputeOptions,
    TableOptions,
    ViewOptions,
    WeightOptions,
    check_positive,
    load_embedder,
)
from dino_infer.cli.parsing import parsed_verbs

if TYPE_CHECKING:
    from dino_infer.evaluate.knn import FewShot
    from dino_infer.knn.votes import Ranking

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FewShotOptions:
    """Accuracy with few training images."""

    n_per_class: tuple[int, ...] = ()
    """Numbers of training images a class to classify with as well; by default none."""
    tries: int | None = None
    """Number of random draws of those images; by default 5."""
    seed: int | None = None
    """Seed of the random draws; by default 0."""

    def __post_init__(self) -> None:
        for count in self.n_per_class:
            check_positive("--n-per-class", count)
        if not self.n_per_class and (self.tries, self.seed) != (None, None):
            raise UsageError("--tries and --seed are for the draws of --n-per-class; pass it too")
        if self.tries is not None and self.tries < 2:
            raise UsageError(f"--tries must be at least 2 to tell a spread, got {self.tries}")
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"--seed must not be negative, got {self.seed}")

    def keywords(self) -> dict[str, Any]:
        """The arguments of ``few_shot_accuracies``."""
        return {
            "n_per_class": self.n_per_class,
            "tries": 5 if self.tries is None else self.tries,
            "seed": self.seed or 0,
        }


def knn(
    *,
    train: str,
    val: str | None = None,
    k: tuple[int, ...] = (10, 20, 100, 200),
    temperature: float = 0.07,
    leave_one_out: tyro.conf.FlagCreatePairsOff[bool] = False,
    train_labels: Path | None = None,
    val_labels: Path | None = None,
    few_shot: tyro.conf.OmitArgPrefixes[FewShotOptions] = FewShotOptions(),
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
    weights: tyro.conf.OmitArgPrefixes[WeightOptions] = WeightOptions(),  # noqa: B008
    compute: tyro.conf.OmitArgPrefixes[ComputeOptions] = ComputeOptions(),  # noqa: B008
    tables: tyro.conf.OmitArgPrefixes[TableOptions] = TableOptions(),  # noqa: B008
    view: tyro.conf.OmitArgPrefixes[ViewOptions] = ViewOptions(),  # noqa: B008
) -> int:
    """Classify images by a weighted vote of their nearest neighbours.

    Prints top-1 and top-5 accuracy in percent for each k. With -o it also writes a folder with
    accuracies.json, classes.csv (accuracy of each class, and what it is taken for) and
    confusion.png.

    Args:
        train: Labelled neighbours: a feature file of dino-embed, or images in class folders or with
            --train-labels.
        val: Labelled images to classify, in the same forms as --train.
        k: Numbers of neighbours that vote.
        temperature: Temperature of the vote; lower gives the nearest more weight.
        leave_one_out: Classify each training image by all the others, instead of --val.
        train_labels: CSV file with the header path,label that names the class of each training
            image.
        val_labels: CSV file with the header path,label that names the class of each image to
            classify.
        few_shot: Accuracy with few training images.
        out: Folder for the report, created if it does not exist.
        overwrite: Replace an existing report.
        weights: Weights that embed folders of images; by default timm:vit_small_patch16_224.dino.
        compute: Execution of the network, and device of the search.
        tables: Reading of image tables.
        view: Part and size of an image that the network sees.
    """
    if leave_one_out == (val is not None):
        raise UsageError("pass either --val or --leave-one-out")
    if val is None and (val_labels is not None or few_shot.n_per_class):
        raise UsageError("--val-labels and --n-per-class need --val")
    if not k or min(k) < 1:
        raise UsageError(f"--k must be at least 1, got {' '.join(map(str, k)) or 'nothing'}")
    if temperature <= 0:
        raise UsageError(f"--temperature must be above 0, got {temperature}")
    if overwrite and out is None:
        raise UsageError("--overwrite is for a report; pass -o too")
    from dino_infer.devices import resolved_device
    from dino_infer.evaluate.knn import few_shot_accuracies, knn_rankings
    from dino_infer.evaluate.knn_report import hold_report, write_knn_report
    from dino_infer.evaluate.labelled import check_comparable, is_feature_file, labelled_features

    if all(is_feature_file(source) for source in (train, val) if source is not None):
        given = (weights, replace(compute, device="auto"), tables, view)
        if given != (WeightOptions(), ComputeOptions(), TableOptions(), ViewOptions()):
            raise UsageError("flags about networks and images are for images; nothing is embedded")
    device = resolved_device(compute.device)
    embedder = functools.cache(lambda: load_embedder(weights, compute, view))
    read = functools.partial(labelled_features, embedder=embedder, image_column=tables.image_column)
    with nullcontext() if out is None else hold_report(out, overwrite=overwrite):
        bank = read(train, label_file=train_labels)
        queries = None if val is None else read(val, label_file=val_labels)
        if queries is not None:
            check_comparable(bank, queries)
        rankings = knn_rankings(bank, queries, ks=k, temperature=temperature, device=device)
        _print_accuracies(rankings)
        shots: list[FewShot] = []
        if queries is not None and few_shot.n_per_class:
            shots = few_shot_accuracies(
                bank, queries, **few_shot.keywords(), ks=k, temperature=temperature, device=device
            )
            _print_few_shot(shots, few_shot.keywords()["tries"])
        if out is not None:
            settings = {"temperature": temperature, **few_shot.keywords()}
            write_knn_report(
                out, train=bank, val=queries, rankings=rankings, few_shot=shots, settings=settings
            )
            logger.info("report in %s", printable(out))
    sides = [bank] if queries is None else [bank, queries]
    failed = sum(side.failed for side in sides)
    if failed:
        logger.warning("%d images could not be read and were left out", failed)
    return inputs_code(total=sum(side.images for side in sides), failed=failed)


def _print_accuracies(rankings: "Mapping[int, Ranking]") -> None:
    from dino_infer.knn.classifier import accuracy

    print("    k   top-1   top-5")
    for k, ranking in rankings.items():
        top1, top5 = accuracy(ranking, k=k)
        print(f"{k:5}  {top1:6.2f}  {top5:6.2f}")


def _print_few_shot(shots: "Sequence[FewShot]", tries: int) -> None:
    print(f"\ntop-1 with n training images a class, mean and standard deviation of {tries} draws")
    print("    n      k    mean     std")
    for shot in shots:
        mean, std = shot.top1_percent_mean, shot.top1_percent_std
        print(f"{shot.n_per_class:5}  {shot.k:5}  {mean:6.2f}  {std:6.2f}")


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-eval and return its exit code."""
    return exit_code(
        lambda args: parsed_verbs({"knn": knn}, prog="dino-eval", args=args),
        prog="dino-eval",
        args=args,
    )
