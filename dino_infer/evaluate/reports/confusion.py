"""Confusion of classes: the counts, and a picture of them."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image

MAX_CELLS = 250  # of a side of the picture: smaller ones are too faint to see
ALL_NAMED = 50  # classes whose names all fit beside the picture
SOME_NAMED = 40  # names beside a larger picture
VALUES_SHOWN = 12  # classes up to which each cell holds its number
NAME_LENGTH = 24
DPI = 120


class ClassResult(NamedTuple):
    """Result of one class."""

    images: int
    correct: int
    confused_with: int | None
    """The class that most of its other images were taken for; None without such an image."""
    confused: int
    """Number of images taken for ``confused_with``."""


def class_results(
    wanted: Int64[np.ndarray, " images"],
    predicted: Int64[np.ndarray, " images"],
    *,
    classes_number: int,
) -> list[ClassResult]:
    """Return the result of each class; of equally frequent confusions the first class is named.

    Args:
        wanted: Class of each image, from 0.
        predicted: The class it was taken for.
        classes_number: Number of classes; those without an image get zeros.
    """
    images = np.bincount(wanted, minlength=classes_number).tolist()
    right = np.bincount(wanted[wanted == predicted], minlength=classes_number).tolist()
    wrong = wanted != predicted
    pairs, counts = np.unique(wanted[wrong] * classes_number + predicted[wrong], return_counts=True)
    most: dict[int, tuple[int, int]] = {}
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        of, other = divmod(pair, classes_number)
        if count > most.get(of, (0, 0))[1]:
            most[of] = other, count
    return [
        ClassResult(images[i], right[i], *most.get(i, (None, 0))) for i in range(classes_number)
    ]


def confusion_picture(
    wanted: Int64[np.ndarray, " images"],
    predicted: Int64[np.ndarray, " images"],
    *,
    names: Sequence[str],
    title: str,
) -> Image.Image:
    """A matrix with a row for each class: where its images went, in percent.

    Where classes are too many for the picture, neighbours share a cell, and the largest percentage
    of a pair in it is shown.

    Args:
        wanted: Class of each image, an index into ``names``.
        predicted: The class it was taken for.
        names: Names of the classes, in the order of rows and columns.
        title: Written above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    block = -(-len(names) // MAX_CELLS)
    shares = confusion_percent(wanted, predicted, classes_number=len(names), block=block)
    inches = 2.5 + 0.24 * len(names) if len(names) <= ALL_NAMED else 11.0
    figure: Any = Figure(figsize=(max(5, inches) + 0.8, max(5, inches)), dpi=DPI)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    _draw(axis, shares, block)
    _name_sides(axis, names, block)
    axis.set_title(title, parse_math=False)
    with warnings.catch_warnings():
        # A name may be in a script that the font lacks; empty boxes are drawn for it.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")


def confusion_percent(
    wanted: Int64[np.ndarray, " images"],
    predicted: Int64[np.ndarray, " images"],
    *,
    classes_number: int,
    block: int = 1,
) -> Float64[np.ndarray, "cells cells"]:
    """Percentages of the images of each class (rows) that are predicted as each (columns).

    Args:
        wanted: Class of each image, from 0.
        predicted: The class it was taken for.
        classes_number: Number of classes.
        block: Classes a cell; a cell holds the largest percentage of its pairs.
    """
    pairs, counts = np.unique(wanted * classes_number + predicted, return_counts=True)
    of, other = np.divmod(pairs, classes_number)
    side = -(-classes_number // block)
    shares = np.zeros((side, side))
    np.maximum.at(shares, (of // block, other // block), 100 * counts / np.bincount(wanted)[of])
    return shares


def _draw(axis: Any, shares: Float64[np.ndarray, "cells cells"], block: int) -> None:
    from matplotlib.colors import PowerNorm

    # The square root lifts rare confusions, which are what there is to see, off the white.
    colors = axis.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=100))
    label = "% of the images of the class"
    if block > 1:
        label += f", the largest of {block} x {block} pairs of classes"
    axis.figure.colorbar(colors, ax=axis, label=label, shrink=0.8)
    if len(shares) > VALUES_SHOWN:
        return
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            color = "white" if share > 40 else "black"
            axis.text(column, row, f"{share:.0f}", ha="center", va="center", color=color)


def _name_sides(axis: Any, names: Sequence[str], block: int) -> None:
    step = 1 if len(names) <= ALL_NAMED else -(-len(names) // SOME_NAMED)
    shown = range(0, len(names), step)
    places = [i // block for i in shown]
    labels = [_short(names[i]) for i in shown]
    rest = "" if step == 1 else f" (1 in {step} is named)"
    axis.set_xticks(places, labels, rotation=90, fontsize=8, parse_math=False)
    axis.set_yticks(places, labels, fontsize=8, parse_math=False)
    axis.set_xlabel(f"predicted class{rest}")
    axis.set_ylabel(f"true class{rest}")


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
