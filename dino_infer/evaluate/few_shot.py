"""Classification with a few training images a class, drawn again and again."""

from collections.abc import Iterable, Mapping, Sequence
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Float32, Int64

from dino_infer.evaluate.data.draws import available, check_tries, distinct, drawn
from dino_infer.evaluate.knn import Sides
from dino_infer.evaluate.linear import checked_sides
from dino_infer.evaluate.logistic import Solver
from dino_infer.evaluate.reports.classes import (
    class_places,
    majority_figures,
    origin,
    top_percent,
)
from dino_infer.evaluate.reports.result import Figures, Result, Table
from dino_infer.features.comparable import how_made
from dino_infer.knn.classifier import accuracies, nearest
from dino_infer.knn.neighbors import normalized

N_PER_CLASS, TRIES = (1, 2, 5, 10), 5
C = 10.0  # of vectors of length 1; a value cannot be chosen where there is one image a class
METHODS = ("logistic", "nearest_mean", "knn")
K = 20


def measure_few_shot(
    sides: Mapping[str, Sides],
    *,
    n_per_class: Iterable[SupportsIndex] = N_PER_CLASS,
    tries: int = TRIES,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Result:
    """Accuracy with few training images a class: three classifiers on the same draws.

    Features are scaled to length 1. ``logistic`` is logistic regression with C = 10,
    ``nearest_mean`` the class whose mean vector is the most similar, ``knn`` the weighted vote of
    the 20 nearest images, or of all that were drawn. All contestants get the same draws, which are
    those of ``few_shot_accuracies``.

    Args:
        sides: Features by name of the contestant; the model first, then its floors. Each needs
            images to classify.
        n_per_class: Numbers of training images a class; a class with fewer gives all.
        tries: Draws of each number.
        seed: Seed of the draws.
        device: Device to search neighbours on.

    Returns:
        ``n5_logistic_top1_percent`` and the like, mean and standard deviation over the draws; the
        table ``draws`` has the model's accuracy of each draw.

    Raises:
        DataError: The sets were made differently or share no class.
        MissingExtraError: scikit-learn is not installed.
        ValueError: No draw.
    """
    train, val = checked_sides(sides)
    check_tries(tries)
    n_per_class = distinct(n_per_class)
    for count in n_per_class:
        available(train.labels, count)  # warns of small classes
    figures, rows = [], []
    for name, side in sides.items():
        found = _top1(side, n_per_class, tries=tries, seed=seed, device=device)
        values = {key: float(np.mean(each)) for key, each in found.items()}
        spreads = {key: float(np.std(each, ddof=1)) for key, each in found.items() if tries > 1}
        figures.append(Figures(of=name, values=values, spreads=spreads))
        rows.append(found)
    if len(sides) > 1:
        blind = majority_figures(train.labels, val.labels)
        values = dict.fromkeys(rows[0], blind.values["top1_percent"])
        figures.append(Figures(of=blind.of, values=values))
    draws = [(key, number, one) for key, each in rows[0].items() for number, one in enumerate(each)]
    headline = f"n{n_per_class[-1]}_{METHODS[0]}_top1_percent"
    return Result(
        protocol="few-shot",
        headline=headline,
        figures=figures,
        settings={
            "n_per_class": list(n_per_class),
            "tries": tries,
            "seed": seed,
            "c": C,
            **how_made(train.description),
        },
        data={"train": origin(train), "val": origin(val)},
        images=train.images + val.images,
        failed=train.failed + val.failed,
        tables={"draws": Table(("figure", "draw", "top1_percent"), draws)},
    )


def _top1(
    side: Sides, n_per_class: Sequence[int], *, tries: int, seed: int, device: str | torch.device
) -> dict[str, list[float]]:
    """Top-1 in percent of each draw, by the name of the figure."""
    train, val = side
    assert val is not None  # ``checked_sides``
    classes, places = np.unique(train.labels, return_inverse=True)
    wanted = class_places(classes, val.labels)
    rows, queries = (np.asarray(normalized(one.matrix)) for one in (train, val))
    found: dict[str, list[float]] = {}
    for count in n_per_class:
        for number in range(tries):
            rng = np.random.default_rng((seed, count, number))
            chosen = drawn(train.labels, count, rng=rng)
            few, labels = rows[chosen], places[chosen]
            weight, bias = Solver(few, labels, classes=len(classes))(C)
            means = class_means(few, labels, classes=len(classes))
            near = nearest(few, queries, k=min(K, len(few)), device=device)
            by_k = accuracies(near, train.labels[chosen], val.labels, ks=[K])
            answers = (
                top_percent(queries @ weight.T + bias, wanted)["top1_percent"],
                top_percent(queries @ means.T, wanted)["top1_percent"],
                by_k[K].top1_percent,
            )
            for method, answer in zip(METHODS, answers, strict=True):
                found.setdefault(f"n{count}_{method}_top1_percent", []).append(answer)
    return found


def class_means(
    rows: Float32[np.ndarray, "rows dim"], labels: Int64[np.ndarray, " rows"], *, classes: int
) -> Float32[np.ndarray, "_classes dim"]:
    """Mean of the unit vectors of each class, scaled to length 1; every class has a row."""
    sums = np.zeros((classes, rows.shape[1]), dtype=np.float32)
    np.add.at(sums, labels, rows)
    return np.asarray(normalized(sums))
