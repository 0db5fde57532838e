"""Instance retrieval by the protocol of the revisited Oxford and Paris photos.

Queries are cut out of their photos. Images are seen whole, and compared by the cosine of [CLS].

Source: https://arxiv.org/abs/1803.11285 for the protocol; https://arxiv.org/abs/2104.14294, section
4.2.1, for the features.
"""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float64, UInt8
from PIL import Image

from dino_infer.embedding.embedder import Embedder
from dino_infer.embedding.multiscale import LongerSide, scaled_embedder
from dino_infer.errors import DataError, ImageError
from dino_infer.evaluate.contestants import Contestant, Network, embedded_rows
from dino_infer.evaluate.data.label_files import first_names
from dino_infer.evaluate.data.readable import common_rows
from dino_infer.evaluate.data.revisited import Box, QueryTruth, Revisited
from dino_infer.evaluate.measures.descriptors import unit_rows
from dino_infer.evaluate.measures.ranking import (
    Ranks,
    percents,
    precision_at,
    relevant_ranks,
    trapezoid_average_precision,
)
from dino_infer.evaluate.reports.matches import (
    NEUTRAL,
    RIGHT,
    WRONG,
    Panel,
    matches_sheet,
    picture_of,
)
from dino_infer.evaluate.reports.result import Figures, Result, mean_figures
from dino_infer.images.read import read_image

SIZE = 224
DEPTHS = (1, 5, 10)
QUERIES_SHOWN = 8
NEAREST_SHOWN = 5
MEDIUM = "map_medium_percent"
# What counts as relevant and as junk in each setup.
SETUPS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}

Scores = Float[np.ndarray, "queries images"]
Picture = UInt8[np.ndarray, "_height _width 3"]


def revisited_columns(
    scores: Scores, truth: Sequence[QueryTruth]
) -> dict[str, Float64[np.ndarray, " _queries"]]:
    """Average precision and precision at 1, 5 and 10 of queries in the three setups, in percent.

    Queries without a relevant image in a setup do not count in it; a setup without any is left out.

    Args:
        scores: Similarity of each query to each image of the database.
        truth: Ground truth of each query.
    """
    columns = {}
    for setup, (relevant, junk) in SETUPS.items():
        ranks: list[Ranks] = []
        for one, known in zip(scores, truth, strict=True):
            found, ignored = (
                [place for kind in kinds for place in getattr(known, kind)]
                for kinds in (relevant, junk)
            )
            ranks.append(relevant_ranks(one, found, junk=ignored))
        if not any(map(len, ranks)):
            continue
        columns[f"map_{setup}_percent"] = percents(trapezoid_average_precision, ranks)
        for k in DEPTHS:
            measure = functools.partial(precision_at, k=k)
            columns[f"mp_at_{k}_{setup}_percent"] = percents(measure, ranks)
    return columns


def measure_revisited(
    contestants: Sequence[Contestant],
    data: Revisited,
    *,
    size: int = SIZE,
    scales: Sequence[float] = (1.0,),
) -> Result:
    """Measure retrieval of landmarks by the revisited protocol.

    Args:
        contestants: The model and its floors.
        data: Queries, database, and which images show the landmark of a query.
        size: Most pixels of the longer side of an image.
        scales: Sides relative to that, whose features are averaged.

    Raises:
        DataError: No query can be read.
    """
    excluded = list(data.excluded)
    pictures, truth, failed = _query_pictures(data, excluded)
    embedders = [_embedder(one, size, scales) for one in contestants]
    rows = common_rows(
        [
            embedded_rows(embedder, data.database, one.cache)
            for embedder, one in zip(embedders, contestants, strict=True)
        ]
    )
    truth = [_of_readable(one, rows.ok) for one in truth]
    alone = sum(not one.easy and not one.hard for one in truth)
    if alone:
        excluded.append(f"{alone} queries have no image to find")
    figures, shown = [], None
    for embedder, one, features in zip(embedders, contestants, rows.features, strict=True):
        scores = unit_rows(embedder(pictures)) @ unit_rows(features).T
        figures.append(mean_figures(one.name, revisited_columns(scores, truth)))
        shown = scores if shown is None else shown
    if not figures[0].values:
        raise DataError(f"{data.source!r}: no query has an image to find that can be read")
    assert shown is not None
    return Result(
        protocol="revisited",
        headline=_headline(figures[0]),
        figures=figures,
        settings={
            "size": size,
            "crop": "none, the longer side is size",
            "scales": list(scales),
            "feature": "cls",
            "queries": "cut out",
        },
        data={"source": data.source, "images": int(rows.ok.sum()), "queries": len(pictures)},
        images=len(data.database) + len(data.queries),
        failed=rows.failed + failed,
        excluded=excluded,
        pictures={"nearest": _sheet(shown, pictures, truth, data, np.flatnonzero(rows.ok))},
    )


def _headline(figures: Figures) -> str:
    """The mAP of the medium setup; of a set without it, the first figure."""
    return MEDIUM if MEDIUM in figures.values else next(iter(figures.values))


def _embedder(contestant: Contestant, size: int, scales: Sequence[float]) -> Embedder:
    if not isinstance(contestant, Network):
        return contestant.embedder(crop="none")
    plain = contestant.preprocess()
    patch = contestant.backbone.patch_size if contestant.backbone.has_attention else 1
    preprocess = LongerSide(
        size=size, mean=plain.mean, std=plain.std, exact_decode=True, least_side=patch
    )
    return scaled_embedder(contestant.backbone, preprocess, scales=scales, **contestant.options)


def _query_pictures(
    data: Revisited, excluded: list[str]
) -> tuple[list[Picture], list[QueryTruth], int]:
    """The parts of photos that are asked for, their ground truth, and the number of failures."""
    pictures, truth, outside = [], [], []
    failed = 0
    for i, known in enumerate(data.truth):
        try:
            picture = read_image(data.queries.read(i), path=data.queries.name(i))
        except ImageError:
            failed += 1
            continue
        part = picture if known.box is None else cut_out(picture, known.box)
        if part.size:
            pictures.append(part)
            truth.append(known)
        else:
            outside.append(data.queries.name(i))
    if outside:
        excluded.append(f"{len(outside)} queries whose bbx lies outside{first_names(outside)}")
    if not pictures:
        raise DataError(f"no query of {data.source!r} can be read; mend its images")
    return pictures, truth, failed


def cut_out(picture: Picture, box: Box) -> Picture:
    """The part of a picture in a box, whose sides are rounded; empty where the box lies outside."""
    left, top, right, bottom = (max(0, round(side)) for side in box)
    return picture[top:bottom, left:right]


def _of_readable(truth: QueryTruth, ok: np.ndarray) -> QueryTruth:
    """Ground truth by positions among the images that could be read."""
    place = np.cumsum(ok) - 1
    easy, hard, junk = (
        tuple(int(place[i]) for i in places if ok[i])
        for places in (truth.easy, truth.hard, truth.junk)
    )
    return replace(truth, easy=easy, hard=hard, junk=junk)


def _sheet(
    scores: Scores,
    pictures: Sequence[Picture],
    truth: Sequence[QueryTruth],
    data: Revisited,
    places: np.ndarray,
) -> Image.Image:
    """Some queries with their nearest images; junk is framed in grey."""
    rows = []
    shown = min(QUERIES_SHOWN, len(pictures))
    for i in np.linspace(0, len(pictures) - 1, shown).astype(int).tolist():
        row = [Panel(pictures[i], f"query {i}")]
        for place in np.argsort(-scores[i], kind="stable")[:NEAREST_SHOWN].tolist():
            kinds = [kind for kind in ("easy", "hard", "junk") if place in getattr(truth[i], kind)]
            color = WRONG if not kinds else NEUTRAL if kinds == ["junk"] else RIGHT
            picture = picture_of(data.database, int(places[place]))
            row.append(Panel(picture, kinds[0] if kinds else "wrong", color))
        rows.append(row)
    return matches_sheet(rows)
