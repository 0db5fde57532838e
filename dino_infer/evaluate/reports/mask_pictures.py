"""Pictures of masks beside their ground truth: a sheet of images, and curves over thresholds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, UInt8
from PIL import Image

from dino_infer.drawing.overlays import head_palette
from dino_infer.drawing.sheets import panel_row

DPI = 120
TINTED = 0.55  # share of a class's colour in a pixel
SHEET_ROWS = 4  # of the best images, and as many of the worst
TITLE_LENGTH = 36  # characters that fit above a panel


class Panels(NamedTuple):
    """One row of a sheet."""

    title: str
    """Title of the first picture; its end is shown where it is long."""
    pictures: Sequence[UInt8[np.ndarray, "_height _width 3"]]


class Curve(NamedTuple):
    """Figures of a mask at several thresholds, from 0 to 1."""

    label: str
    masses: Float64[np.ndarray, " masses"]
    """Share of the attention that the mask keeps."""
    precision: Float64[np.ndarray, " masses"]
    recall: Float64[np.ndarray, " masses"]
    iou: Float64[np.ndarray, " masses"]
    marked: int
    """Position of the threshold that other figures are told for."""


def mask_sheet(rows: Iterable[Panels], *, titles: Sequence[str]) -> Image.Image:
    """A sheet with a row of pictures for each image.

    Args:
        rows: Rows of the sheet, at least one.
        titles: Titles of the pictures after the first of each row.
    """
    drawn = [panel_row(row.pictures, titles=[row.title[-TITLE_LENGTH:], *titles]) for row in rows]
    return Image.fromarray(np.concatenate(drawn))


def best_and_worst(scores: Float64[np.ndarray, " images"]) -> list[int]:
    """Places of the images for a sheet, from the best on."""
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    few = len(order) <= 2 * SHEET_ROWS
    return order if few else [*order[:SHEET_ROWS], *order[-SHEET_ROWS:]]


def label_overlay(
    picture: UInt8[np.ndarray, "height width 3"],
    labels: Int32[np.ndarray, "height width"],
    *,
    classes_number: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """A picture tinted by the class of each pixel; class 0 is left grey, and void is white.

    Args:
        picture: The image.
        labels: Class of each pixel, from 0; negative where it is void.
        classes_number: Number of classes.
    """
    grey = picture.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    palette = head_palette(max(1, classes_number - 1))
    colors = np.concatenate([palette, [(255, 255, 255)]])[np.where(labels < 0, -1, labels - 1)]
    tinted = grey * (1 - TINTED) + colors * TINTED
    mixed: np.ndarray = np.where((labels == 0)[..., None], 0.5 * grey + 64, tinted)
    return mixed.round().astype(np.uint8)


def mask_curves(curves: Sequence[Curve], floors: Mapping[str, float]) -> Image.Image:
    """Precision over recall, and the Jaccard index over the threshold.

    Args:
        curves: One line each.
        floors: Jaccard index of answers without a threshold.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(11, 4.5), dpi=DPI)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for curve in curves:
        at = curve.marked
        (line,) = left.plot(100 * curve.recall, 100 * curve.precision, label=curve.label)
        left.plot(100 * curve.recall[at], 100 * curve.precision[at], "o", color=line.get_color())
        right.plot(100 * curve.masses, 100 * curve.iou, color=line.get_color())
        right.plot(100 * curve.masses[at], 100 * curve.iou[at], "o", color=line.get_color())
    for style, (name, value) in zip(("--", ":", "-."), floors.items(), strict=False):
        right.axhline(100 * value, color="grey", linestyle=style, label=name)
    left.set(xlabel="recall, %", ylabel="precision, %", xlim=(0, 100), ylim=(0, 100))
    right.set(xlabel="share of the attention in the mask, %", ylabel="Jaccard index, %")
    right.set(xlim=(0, 100), ylim=(0, None))
    left.legend(fontsize=8)
    if floors:
        right.legend(fontsize=8)
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
