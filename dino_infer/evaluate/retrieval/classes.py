"""Retrieval by class: images of the class of a query should come before all others.

``revisited`` beside it has the protocol of the revisited Oxford and Paris photos.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Shaped
from PIL import Image

from dino_infer.choices import Crop
from dino_infer.embedding.multiscale import scaled_embedder
from dino_infer.errors import DataError
from dino_infer.evaluate.contestants import Contestant, Network, Rows, embedded_rows
from dino_infer.evaluate.data.label_files import first_names
from dino_infer.evaluate.data.labelled import LabelledImages
from dino_infer.evaluate.data.readable import common_rows
from dino_infer.evaluate.measures.descriptors import similarity_blocks, unit_rows
from dino_infer.evaluate.measures.ranking import (
    Ranks,
    average_precision,
    chance_average_precision,
    chance_found,
    is_found,
    percents,
    relevant_ranks,
)
from dino_infer.evaluate.reports.matches import RIGHT, WRONG, Panel, matches_sheet, picture_of
from dino_infer.evaluate.reports.result import Figures, Result, Table, mean_figures
from dino_infer.progress import Progress
from dino_infer.sources.image_list import ImageList

DEPTHS = (1, 5, 10)
QUERIES_SHOWN = 8
NEAREST_SHOWN = 5

Vectors = Float[np.ndarray, "_rows dim"]


def class_ranks(
    queries: Vectors,
    database: Vectors,
    *,
    query_labels: Shaped[np.ndarray, " queries"],
    labels: Shaped[np.ndarray, " database"],
    same: Sequence[int | None] | None = None,
) -> list[Ranks]:
    """Ranks that the images of each query's class take, by cosine.

    Args:
        queries: Features to look up.
        database: Features to look among.
        query_labels: Class of each query.
        labels: Class of each image of the database.
        same: Position of each query itself in the database, which does not count; None where it is
            not there.
    """
    queries, database = unit_rows(queries), unit_rows(database)
    ranks = []
    with Progress("rank", total=len(queries)) as progress:
        for rows, scores in similarity_blocks(queries, database):
            for i, one in enumerate(scores, start=rows.start):
                own = None if same is None else same[i]
                relevant = np.flatnonzero(labels == query_labels[i])
                ranks.append(relevant_ranks(one, relevant, junk=[] if own is None else [own]))
            progress.advance(len(scores))
    return ranks


def class_columns(ranks: Sequence[Ranks]) -> dict[str, Float64[np.ndarray, " queries"]]:
    """Average precision and R@1, R@5 and R@10, in percent, of queries with relevant images.

    R@k of a query is 100 where an image of its class is among the first k.
    """
    columns = {"map_percent": percents(average_precision, ranks)}
    for k in DEPTHS:
        columns[f"recall_at_{k}_percent"] = percents(functools.partial(is_found, k=k), ranks)
    return columns


@dataclass(frozen=True)
class _Sets:
    """Labels and files of the images that every contestant could read."""

    database: ImageList
    labels: Shaped[np.ndarray, " database"]
    queries: ImageList
    query_labels: Shaped[np.ndarray, " queries"]
    same: Sequence[int | None]


def measure_retrieval(
    contestants: Sequence[Contestant],
    database: LabelledImages,
    queries: LabelledImages | None = None,
    *,
    size: int | None = None,
    crop: Crop = "center",
    scales: Sequence[float] = (1.0,),
) -> Result:
    """Measure how well images of a class find each other.

    Args:
        contestants: The model and its floors.
        database: Images to look among.
        queries: Images to look up; None looks up each image of the database among the others.
        size: See ``Network.rows``.
        crop: See ``Network.rows``.
        scales: Sides relative to that, whose features are averaged.

    Raises:
        DataError: No query can be read, or none has an image of its class in the database.
    """
    lists = [database.images] if queries is None else [database.images, queries.images]
    rows = [
        common_rows([_rows(one, images, size, crop, scales) for one in contestants])
        for images in lists
    ]
    sets = _sets(database, queries, [part.ok for part in rows])
    counts = _relevant_counts(sets)
    asked = counts > 0
    excluded = _without_others(sets, counts)
    if not asked.any():
        raise DataError(
            f"no query has another image of its class in {database.source!r}; name the classes of "
            "both alike, and give each two images or more"
        )
    figures, tables, pictures = [], {}, {}
    for place, one in enumerate(contestants):
        features = [part.features[place] for part in rows]
        ranks = class_ranks(
            features[-1],
            features[0],
            query_labels=sets.query_labels,
            labels=sets.labels,
            same=sets.same,
        )
        figures.append(mean_figures(one.name, class_columns(ranks)))
        if not place:
            tables["classes"] = _classes_table(ranks, sets.query_labels)
            pictures["nearest"] = _sheet(features[-1], features[0], sets, asked)
    if len(contestants) > 1:
        figures.append(_chance(sets, counts))
    return Result(
        protocol="retrieval",
        headline="map_percent",
        figures=figures,
        settings={"size": size, "crop": crop, "scales": list(scales), "feature": "cls"},
        data={
            "database": database.source,
            "queries_of": database.source if queries is None else queries.source,
            "images": len(sets.labels),
            "queries": int(asked.sum()),
            "classes": len(np.unique(sets.labels)),
        },
        images=sum(map(len, lists)),
        failed=sum(part.failed for part in rows),
        excluded=excluded,
        tables=tables,
        pictures=pictures,
    )


def _rows(
    contestant: Contestant,
    images: ImageList,
    size: int | None,
    crop: Crop,
    scales: Sequence[float],
) -> Rows:
    if not isinstance(contestant, Network) or tuple(scales) == (1.0,):
        return contestant.rows(images, size=size, crop=crop)
    preprocess = contestant.preprocess(size=size, crop=crop)
    embedder = scaled_embedder(contestant.backbone, preprocess, scales=scales, **contestant.options)
    return embedded_rows(embedder, images, contestant.cache)


def _sets(
    database: LabelledImages, queries: LabelledImages | None, ok: Sequence[np.ndarray]
) -> _Sets:
    images, labels = database.images.select(np.flatnonzero(ok[0])), database.labels[ok[0]]
    if queries is None:
        return _Sets(images, labels, images, labels, list(range(len(labels))))
    asked = queries.images.select(np.flatnonzero(ok[1]))
    places = {bytes(file): i for i, file in enumerate(images.files())}
    same = [places.get(bytes(file)) for file in asked.files()]
    return _Sets(images, labels, asked, queries.labels[ok[1]], same)


def _relevant_counts(sets: _Sets) -> np.ndarray:
    names, sizes = np.unique(sets.labels, return_counts=True)
    size_of = dict(zip(names.tolist(), sizes.tolist(), strict=True))
    return np.array(
        [
            size_of.get(label, 0) - (own is not None and sets.labels[own] == label)
            for label, own in zip(sets.query_labels.tolist(), sets.same, strict=True)
        ],
        np.int64,
    )


def _without_others(sets: _Sets, counts: np.ndarray) -> list[str]:
    """A line on the queries that have nothing to find."""
    alone = np.flatnonzero(counts == 0)
    if not len(alone):
        return []
    classes = sorted({str(label) for label in sets.query_labels[alone]})
    return [
        f"{len(alone)} queries, as the database has no other image of their "
        f"{len(classes)} classes{first_names(classes)}"
    ]


def _classes_table(ranks: Sequence[Ranks], labels: Shaped[np.ndarray, " queries"]) -> Table:
    rows = []
    for label in np.unique(labels):
        own = [ranks[i] for i in np.flatnonzero(labels == label).tolist() if len(ranks[i])]
        if own:
            means = mean_figures("", class_columns(own)).values
            rows.append([str(label), len(own), *means.values()])
    return Table(
        ["class", "queries", "map_percent", *(f"recall_at_{k}_percent" for k in DEPTHS)], rows
    )


def _sheet(queries: Vectors, database: Vectors, sets: _Sets, asked: np.ndarray) -> Image.Image:
    """Queries of evenly spread classes, each with its nearest images."""
    chosen = np.flatnonzero(asked)
    chosen = chosen[np.argsort(sets.query_labels[chosen].astype(str), kind="stable")]
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(QUERIES_SHOWN, len(chosen))).astype(int)]
    scores = unit_rows(queries[chosen]) @ unit_rows(database).T
    rows = []
    for one, i in zip(scores, chosen.tolist(), strict=True):
        if sets.same[i] is not None:
            one[sets.same[i]] = -np.inf
        label = sets.query_labels[i]
        row = [Panel(picture_of(sets.queries, i), str(label))]
        for place in np.argsort(-one, kind="stable")[:NEAREST_SHOWN].tolist():
            if np.isfinite(one[place]):
                color = RIGHT if sets.labels[place] == label else WRONG
                row.append(Panel(picture_of(sets.database, place), str(sets.labels[place]), color))
        rows.append(row)
    return matches_sheet(rows)


def _chance(sets: _Sets, counts: np.ndarray) -> Figures:
    """Expected figures of a random order."""
    pairs = [
        (count, len(sets.labels) - (own is not None))
        for count, own in zip(counts.tolist(), sets.same, strict=True)
        if count
    ]
    values = {"map_percent": [chance_average_precision(*pair) for pair in pairs]}
    for k in DEPTHS:
        values[f"recall_at_{k}_percent"] = [chance_found(*pair, k) for pair in pairs]
    return Figures(
        of="chance", values={name: 100 * float(np.mean(one)) for name, one in values.items()}
    )
