"""Result of a protocol: the model's figures beside those of its floors, and how they were made."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from PIL import Image

LOWER_IS_BETTER = frozenset({"j_decay_percent", "f_decay_percent"})


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of one contestant."""

    of: str
    """Name of the contestant: "model", "untrained", "raw pixels", "centred ellipse" ..."""
    values: Mapping[str, float]
    """Values by name, with the unit in it: ``top1_percent``, ``iou_percent``."""
    spreads: Mapping[str, float] = field(default_factory=dict)
    """Standard deviation over seeds or draws, or standard error over images, where there is one."""


class Table(NamedTuple):
    """More figures, in columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of one protocol on one set of images."""

    protocol: str
    """Name of the verb, such as "knn"."""
    headline: str
    """Name of the value that stands for the protocol."""
    figures: Sequence[Figures]
    """The model first, then its floors."""
    settings: Mapping[str, Any]
    """Settings that the figures depend on: sizes, features, seed."""
    data: Mapping[str, Any]
    """Sources, and numbers of images, classes, objects."""
    images: int
    """Number of requested images."""
    failed: int = 0
    """Number of those that could not be read."""
    excluded: Sequence[str] = ()
    """Lines on what was left out, and why."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """Further tables by name; a report holds each as NAME.csv."""
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    """Pictures by name; a report holds each as NAME.png."""
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    """Further files of a report by name, such as a trained head; each is written by its function,
    which is given the path."""

    @property
    def model(self) -> Figures:
        """Figures of the network that was measured."""
        return self.figures[0]

    def as_json(self) -> dict[str, Any]:
        """Everything but the tables and pictures, in plain values."""
        return {
            "protocol": self.protocol,
            "headline": self.headline,
            "figures": [
                {"of": one.of, "values": dict(one.values), "spreads": dict(one.spreads)}
                for one in self.figures
            ],
            "settings": dict(self.settings),
            "data": dict(self.data),
            "images": self.images,
            "failed": self.failed,
            "excluded": list(self.excluded),
        }


def mean_figures(of: str, columns: Mapping[str, Float64[np.ndarray, " measured"]]) -> Figures:
    """Means over images or queries, each with its standard error.

    Args:
        of: Name of the contestant.
        columns: Figures of every image or query, by name.
    """
    return Figures(
        of=of,
        values={name: float(column.mean()) for name, column in columns.items()},
        spreads={
            name: float(column.std(ddof=1)) / len(column) ** 0.5
            for name, column in columns.items()
            if len(column) > 1
        },
    )


def standard_errors(percent: Mapping[str, float], images: int) -> dict[str, float]:
    """Standard error of each share of images, in percent, as if the images were a random draw.

    Args:
        percent: Shares in percent.
        images: Number of images that each is a share of.
    """
    return {
        name: math.sqrt(max(0.0, value * (100 - value)) / images) for name, value in percent.items()
    }


def text_table(result: Result) -> str:
    """The figures for a terminal: a line each, a column for the model and each floor."""
    names = list(dict.fromkeys(name for one in result.figures for name in one.values))
    head = ["", *(one.of for one in result.figures)]
    rows = [[name, *(value_of(one, name) for one in result.figures)] for name in names]
    return aligned([head, *rows])


def text_of(table: Table) -> str:
    """A further table for a terminal."""
    rows = [[shown(cell) for cell in row] for row in table.rows]
    return aligned([list(table.columns), *rows])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def value_of(figures: Figures, name: str) -> str:
    """A value with its spread for a table; a dash where the contestant has none."""
    if name not in figures.values:
        return "-"
    value = shown(figures.values[name])
    return f"{value} ± {figures.spreads[name]:.2f}" if name in figures.spreads else value


def shown(value: Any) -> str:
    """A cell of a table: numbers with two digits after the point, small ones with four."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4f}"
