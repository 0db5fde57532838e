"""Pictures of masks beside their ground truth: a sheet of images, and curves over thresholds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from PIL import Image

from dino_infer.drawing.overlays import mask_overlay
from dino_infer.drawing.sheets import panel_row

DPI = 120
TITLE_LENGTH = 36  # characters that fit above a panel


class Panels(NamedTuple):
    """One row of a sheet."""

    title: str
    picture: UInt8[np.ndarray, "height width 3"]
    truth: Bool[np.ndarray, "height width"]
    mask: Bool[np.ndarray, "height width"]


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


def mask_sheet(rows: Iterable[Panels]) -> Image.Image:
    """A row for each image: the picture, its ground truth, and the mask."""
    drawn = [
        panel_row(
            [
                row.picture,
                mask_overlay(row.picture, row.truth),
                mask_overlay(row.picture, row.mask),
            ],
            titles=[row.title[-TITLE_LENGTH:], "ground truth", "mask"],
        )
        for row in rows
    ]
    return Image.fromarray(np.concatenate(drawn))


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
