"""k-NN classification of labelled images: with all training images, and with few a class."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from numpy.typing import ArrayLike

from dino_infer.errors import DataError
from dino_infer.evaluate.contestants import MODEL, Contestant
from dino_infer.evaluate.data.draws import available, check_tries, distinct, drawn
from dino_infer.evaluate.data.labelled import (
    LabelledFeatures,
    LabelledImages,
    check_comparable,
    features_in,
    is_feature_file,
    labelled_arrays,
    labelled_images,
)
from dino_infer.evaluate.data.repeats import warn_of_shared
from dino_infer.evaluate.reports.classes import ClassTable, class_table, origin
from dino_infer.evaluate.reports.result import Figures, Result, Table, standard_errors
from dino_infer.features.comparable import how_made
from dino_infer.knn.classifier import accuracies, accuracy, clamped_k, nearest, nearest_others
from dino_infer.knn.votes import TEMPERATURE, Ranking, rankings

KS = (10, 20, 100, 200)


class Sides(NamedTuple):
    """Neighbours and the images to classify, as one contestant sees them."""

    train: LabelledFeatures
    val: LabelledFeatures | None
    """None classifies each training image by all the others."""


class FewShot(NamedTuple):
    """Top-1 over several draws of ``n_per_class`` training images a class."""

    n_per_class: int
    k: int
    top1_percent_mean: float
    top1_percent_std: float
    """Sample standard deviation of a single draw."""


def sides_of(
    train: str,
    val: str | None,
    *,
    contestants: Sequence[Contestant],
    label_files: tuple[str | Path | None, str | Path | None] = (None, None),
    image_column: str | None = None,
    **view: Any,
) -> dict[str, Sides]:
    """Labelled features of each contestant.

    Args:
        train: Feature file, or what ``list_images`` takes.
        val: The same; None for none.
        contestants: Makers of the features; may be empty where both are feature files.
        label_files: Files that name the classes of both, see ``labels_from_file``.
        image_column: See ``list_images``.
        **view: ``feature``, ``size`` and ``crop``, see ``Network.rows``.

    Raises:
        DataError: There are no labels, no rows, or the files cannot be used.
    """
    read = [
        features_in(source, label_file=labels)
        if is_feature_file(source)
        else labelled_images(source, label_file=labels, image_column=image_column)
        for source, labels in zip((train, val), label_files, strict=True)
        if source is not None
    ]
    match read:
        case [LabelledImages() as known, LabelledImages() as asked]:
            warn_of_shared(known.images, asked.images)
    in_files = [one for one in read if isinstance(one, LabelledFeatures)]
    if len(in_files) == len(read):
        return {MODEL: _pair(in_files)}
    return {
        contestant.name: _pair(
            [
                one if isinstance(one, LabelledFeatures) else one.features(contestant, **view)
                for one in read
            ]
        )
        for contestant in contestants
    }


def sides_of_arrays(
    train: ArrayLike | torch.Tensor,
    train_labels: ArrayLike | torch.Tensor,
    val: ArrayLike | torch.Tensor | None = None,
    val_labels: ArrayLike | torch.Tensor | None = None,
) -> dict[str, Sides]:
    """Features that are in memory, for a protocol that classifies.

    Args:
        train: Features of the labelled images, (rows, dim).
        train_labels: Classes of those images, (rows,).
        val: Features of the images to classify, (queries, dim); None classifies each training image
            by the others.
        val_labels: Classes of those images, (queries,).

    Raises:
        DataError: Features are not rows of finite numbers, or differ from labels in number.
    """
    if val is None and val_labels is not None:
        raise DataError("`val_labels` come without `val`, the features that they are of")
    given = [("train", train, train_labels), ("val", val, val_labels)]
    return {
        MODEL: _pair(
            [
                labelled_arrays(name, matrix, () if labels is None else labels)
                for name, matrix, labels in given
                if matrix is not None
            ]
        )
    }


def _pair(features: Sequence[LabelledFeatures]) -> Sides:
    return Sides(features[0], features[1] if len(features) > 1 else None)


def measure_knn(
    sides: Mapping[str, Sides],
    *,
    ks: Iterable[SupportsIndex] = KS,
    temperature: float = TEMPERATURE,
    n_per_class: Iterable[SupportsIndex] = (),
    tries: int = 5,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Result:
    """k-NN accuracy of features: the protocol of the paper's section 4.1.

    Args:
        sides: Features by name of the contestant; the model first, then its floors.
        ks: Numbers of neighbours.
        temperature: Temperature of the vote.
        n_per_class: Training images a class to classify with as well, see
            ``few_shot_accuracies``; the model alone.
        tries: Draws of each number, at least 2.
        seed: Seed of the draws.
        device: Device to search on.

    Returns:
        ``k20_top1_percent`` and the like, with their standard errors over images; tables
        ``classes`` and, where asked for, ``few_shot``; and the picture ``confusion``. Classes are
        those of the k with the best top-1, the smallest of several.

    Raises:
        DataError: A set holds rows that cannot be used, too few of them, or was made differently.
        ValueError: ``tries`` are too few.

    Source: https://arxiv.org/abs/2104.14294, section 4.1 and appendix F.
    """
    ks, n_per_class = distinct(ks), distinct(n_per_class)
    if n_per_class:
        check_tries(tries, least=2)
    model = sides[MODEL]
    if model.val is not None:
        check_comparable(model.train, model.val)
    figures = []
    ranked: dict[str, dict[int, Ranking]] = {}
    count = len((model.val or model.train).labels)
    for name, side in sides.items():
        found = knn_rankings(side.train, side.val, ks=ks, temperature=temperature, device=device)
        values: dict[str, float] = {}
        for k, ranking in found.items():
            top1, top5 = accuracy(ranking, k=k)
            values |= {f"k{k}_top1_percent": top1, f"k{k}_top5_percent": top5}
        figures.append(Figures(of=name, values=values, spreads=standard_errors(values, count)))
        ranked[name] = found
    shots: list[FewShot] = []
    if n_per_class and model.val is not None:
        shots = few_shot_accuracies(
            model.train, model.val, n_per_class=n_per_class, tries=tries, seed=seed, ks=ks,
            temperature=temperature, device=device,
        )  # fmt: skip
    counted = [side for side in model if side is not None]
    best, classes = _classes(model, ranked[MODEL])
    tables = {"classes": classes.table}
    tables |= {"few_shot": Table(FewShot._fields, shots)} if shots else {}
    return Result(
        protocol="knn",
        headline=f"k{20 if 20 in ks else ks[0]}_top1_percent",
        figures=figures,
        settings={
            "temperature": temperature,
            "seed": seed,
            "tries": tries,
            **how_made(model.train.description),
            "classes_k": best,
        },
        data={
            "train": origin(model.train),
            "val": "leave-one-out" if model.val is None else origin(model.val),
        },
        images=sum(side.images for side in counted),
        failed=sum(side.failed for side in counted),
        tables=tables,
        pictures={"confusion": classes.picture},
    )


def knn_rankings(
    train: LabelledFeatures,
    val: LabelledFeatures | None,
    *,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
    device: str | torch.device = "cpu",
) -> dict[int, Ranking]:
    """Rank the labels of each image by the vote of each k, from one search.

    Args:
        train: The neighbours.
        val: Images to classify; None classifies each training image by all the others.
        ks: Numbers of neighbours.
        temperature: Temperature of the vote.
        device: Device to search on.

    Raises:
        DataError: A set holds rows that cannot be used, or too few of them.
    """
    try:
        if val is None:
            found = nearest_others(train.matrix, k=max(ks), device=device)
        else:
            found = nearest(train.matrix, val.matrix, k=max(ks), device=device)
    except ValueError as error:
        sources = train.source if val is None else f"{train.source} and {val.source}"
        raise DataError(f"k-NN on {sources}: {error}") from error
    wanted = train.labels if val is None else val.labels
    return rankings(found, train.labels, wanted, ks=ks, temperature=temperature)


def few_shot_accuracies(
    train: LabelledFeatures,
    val: LabelledFeatures,
    *,
    n_per_class: Sequence[int],
    tries: int,
    seed: int,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
    device: str | torch.device = "cpu",
) -> list[FewShot]:
    """Top-1 accuracy with few training images a class, redrawn for each try.

    The draws depend on the seed, the number of the try and ``n_per_class``, on nothing else.

    Args:
        train: Images to draw from; a class with fewer gives all, with a warning.
        val: Images to classify.
        n_per_class: Training images a class; one or several numbers.
        tries: Draws of each number, at least 2.
        seed: Seed of the draws.
        ks: Numbers of neighbours; each is clamped to the images drawn.
        temperature: Temperature of the vote.
        device: Device to search on.

    Returns:
        One result for each number of images and each k.
    """
    results = []
    for count in n_per_class:
        k = clamped_k(max(ks), available=available(train.labels, count))
        top1 = np.empty((tries, len(ks)))
        for number in range(tries):
            rows = drawn(train.labels, count, rng=np.random.default_rng((seed, count, number)))
            near = nearest(train.matrix[rows], val.matrix, k=k, device=device)
            found = accuracies(near, train.labels[rows], val.labels, ks=ks, temperature=temperature)
            top1[number] = [found[asked].top1_percent for asked in ks]
        spreads = zip(ks, top1.mean(axis=0), top1.std(axis=0, ddof=1), strict=True)
        results += [FewShot(count, asked, float(mean), float(std)) for asked, mean, std in spreads]
    return results


def _classes(model: Sides, ranked: Mapping[int, Ranking]) -> tuple[int, ClassTable]:
    """The k with the best top-1, and for it a row a class and the confusion matrix."""
    top1 = {k: accuracy(ranking, k=k).top1_percent for k, ranking in ranked.items()}
    best = max(sorted(top1), key=lambda k: top1[k])
    labels = (model.val or model.train).labels
    title = f"k-NN with k = {best}: top-1 {top1[best]:.2f} %"
    return best, class_table(model.train.labels, labels, ranked[best].winners, title=title)
