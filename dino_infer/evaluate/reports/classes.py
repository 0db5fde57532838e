"""Results of classification: accuracies, a row for each class, and the confusion matrix."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64, Shaped
from PIL import Image

from dino_infer.evaluate.data.labelled import LabelledFeatures
from dino_infer.evaluate.reports.confusion import ClassResult, class_results, confusion_picture
from dino_infer.evaluate.reports.result import Figures, Table

CLASS_COLUMNS = ("class", "images", "top1_percent", "most_confused_with", "confused_percent")
MAJORITY = "majority class"
TOP = 5


class ClassTable(NamedTuple):
    """A row for each class, and a picture of the confusion matrix."""

    table: Table
    picture: Image.Image


def class_table(
    train: Shaped[np.ndarray, " train"],
    wanted: Shaped[np.ndarray, " images"],
    predicted: Shaped[np.ndarray, " images"],
    *,
    title: str,
) -> ClassTable:
    """A row for each class, and the confusion matrix.

    Args:
        train: Labels of the training images, whose classes are shown too.
        wanted: Label of each image.
        predicted: The label it was given.
        title: Written above the picture.
    """
    names = np.unique(np.concatenate([train, wanted]))
    places, given = np.searchsorted(names, wanted), np.searchsorted(names, predicted)
    classes = class_results(places, given, classes_number=len(names))
    rows = [_row(name, one, names) for name, one in zip(names, classes, strict=True)]
    picture = confusion_picture(places, given, names=names.tolist(), title=title)
    return ClassTable(Table(CLASS_COLUMNS, rows), picture)


def _row(name: str, one: ClassResult, names: Shaped[np.ndarray, " classes"]) -> list[Any]:
    top1 = f"{100 * one.correct / one.images:.2f}" if one.images else ""
    mistaken = ("", "")
    if one.confused_with is not None:
        mistaken = (names[one.confused_with], f"{100 * one.confused / one.images:.2f}")
    return [name, one.images, top1, *mistaken]


def origin(side: LabelledFeatures) -> dict[str, Any]:
    """Source of labelled features, and their numbers of images and classes."""
    counts = {"images": side.images, "failed": side.failed, "classes": len(set(side.labels))}
    return {"source": side.source, **counts}


def class_places(
    classes: Shaped[np.ndarray, " classes"], labels: Shaped[np.ndarray, " images"]
) -> Int64[np.ndarray, " images"]:
    """Place of each label in the sorted classes; -1 for a label that is none of them."""
    places = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return np.where(classes[places] == labels, places, -1)


def top_percent(
    logits: Float[np.ndarray, "images classes"], wanted: Int64[np.ndarray, " images"]
) -> dict[str, float]:
    """Top-1 and top-5 in percent; of equal logits the first class ranks first, and NaN is wrong.

    Args:
        logits: Score of each class.
        wanted: The right class; -1 for one that has no logit, which is wrong.
    """
    own = np.take_along_axis(logits, np.maximum(wanted, 0)[:, None], axis=1)
    before = np.arange(logits.shape[1]) < wanted[:, None]
    ranks = np.count_nonzero((logits > own) | ((logits == own) & before), axis=1)
    known = (wanted >= 0) & ~np.isnan(logits).any(axis=1)
    hits = [np.count_nonzero(known & (ranks < top)) for top in (1, TOP)]
    return {
        f"top{top}_percent": 100 * hit / len(wanted)
        for top, hit in zip((1, TOP), hits, strict=True)
    }


def majority_figures(
    train: Shaped[np.ndarray, " train"], wanted: Shaped[np.ndarray, " images"]
) -> Figures:
    """The answer without looking: the most frequent classes of the training set."""
    names, counts = np.unique(train, return_counts=True)
    scores = np.broadcast_to(counts.astype(np.float64), (len(wanted), len(names)))
    return Figures(of=MAJORITY, values=top_percent(scores, class_places(names, wanted)))
