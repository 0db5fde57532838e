"""Copy detection: find the original of an altered copy among many images.

The feature is the [CLS] token and the generalised mean of the patch tokens, both of the last block,
of the image squeezed to a square; it is compared by its cosine, as it is and whitened.

Source: https://arxiv.org/abs/2104.14294, section 4.2.1; https://arxiv.org/abs/2202.10261 for the
measures over all pairs and for score normalisation.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from PIL import Image

from dino_infer.errors import DataError
from dino_infer.evaluate.contestants import MODEL, Contestant, Network
from dino_infer.evaluate.data.copies import Copies
from dino_infer.evaluate.data.label_files import first_names
from dino_infer.evaluate.data.readable import common_rows
from dino_infer.evaluate.data.repeats import repeats
from dino_infer.evaluate.measures.copies import (
    CopyRanks,
    chance_values,
    copy_columns,
    copy_ranks,
    pair_values,
)
from dino_infer.evaluate.measures.descriptors import fitted_whitening
from dino_infer.evaluate.measures.ranking import (
    Ranks,
    average_precision,
    is_found,
    percents,
    trapezoid_average_precision,
)
from dino_infer.evaluate.reports.matches import RIGHT, WRONG, Panel, matches_sheet, picture_of
from dino_infer.evaluate.reports.result import Figures, Result, Table, mean_figures
from dino_infer.sources.image_list import ImageList

SIZE = 320
HARDEST_SHOWN = 8
PLAIN, WHITENED = "", "whitened_"  # before the names of values
TRANSFORM_MEASURES: dict[str, Callable[[Ranks], float]] = {
    "map_percent": average_precision,
    "copydays_map_percent": trapezoid_average_precision,
    "accuracy_at_1_percent": lambda ranks: is_found(ranks, 1),
}
# Sets that the whitening may be fitted on, the first that is there.
FITTED_ON = ("whiten_on", "background", "distractors", "references")

Features = Mapping[str, Float[np.ndarray, "_rows dim"]]
"""Rows of one contestant by the name of the set of images."""


@dataclass(frozen=True)
class _Task:
    """The queries that can be asked, and their originals among the references that can be read."""

    queries: Int64[np.ndarray, " kept"]
    """Positions among the queries that can be read."""
    names: Sequence[int]
    """Positions of the kept queries in their list."""
    originals: Sequence[Sequence[int]]
    transforms: Sequence[str]


@dataclass(frozen=True)
class _Found:
    """Results of one contestant."""

    ranks: Mapping[str, CopyRanks]
    """Ranks by the features as they are, and whitened."""
    figures: Figures
    components: int | None
    """Directions that the whitening kept; None where it could not be fitted."""


def measure_copy_detection(
    contestants: Sequence[Contestant],
    copies: Copies,
    *,
    distractors: ImageList | None = None,
    whiten_on: ImageList | None = None,
    background: ImageList | None = None,
    components: int | None = None,
    size: int = SIZE,
) -> Result:
    """Measure how well networks find the originals of altered copies.

    Args:
        contestants: The model and its floors.
        copies: Queries, originals, and which belong together.
        distractors: More images of the database, copies of none.
        whiten_on: Images that the whitening is fitted on; None takes ``background``, else
            ``distractors``, else the originals. It never sees a query.
        background: Images that are neither queries nor in the database, to normalise scores by.
        components: Most directions that the whitening keeps; None keeps all.
        size: Side in pixels of the square that images are squeezed to.

    Raises:
        DataError: No query can be read together with its original.
    """
    excluded = list(copies.excluded)
    lists = {"queries": copies.queries, "references": copies.references}
    queries, originals = {"queries": copies.queries}, {"originals": copies.references}
    for name, images, others in (
        ("distractors", distractors, originals),
        ("background", background, queries | originals),
        ("whiten_on", whiten_on, queries),
    ):
        if images is not None and len(rest := _strangers(images, name, excluded, **others)):
            lists[name] = rest
    rows = {
        name: common_rows([one.rows(images, **_view(one, size)) for one in contestants])
        for name, images in lists.items()
    }
    failed = sum(part.failed for part in rows.values())
    task = _task(copies, rows["queries"].ok, rows["references"].ok, excluded)
    excluded += [f"{n}: no image can be read" for n, part in rows.items() if not part.ok.any()]
    rows = {name: part for name, part in rows.items() if part.ok.any()}
    fitted_on = next(name for name in FITTED_ON if name in rows)
    found = {}
    for place, one in enumerate(contestants):
        features = {name: part.features[place] for name, part in rows.items()}
        found[one.name] = _found(
            one.name, features, task, fitted_on=fitted_on, components=components
        )
        if found[one.name].components is None:
            excluded.append(
                f"whitened figures of {one.name}: its features of {fitted_on} are equal"
            )
    database = sum(len(rows[n].features[0]) for n in ("references", "distractors") if n in rows)
    figures = [one.figures for one in found.values()]
    if len(contestants) > 1:
        figures.append(Figures(of="chance", values=chance_values(task.originals, database)))
    hardest = _hardest_sheet(
        next(iter(found.values())).ranks[PLAIN],
        task,
        queries=copies.queries,
        databases=[
            lists[name].select(np.flatnonzero(rows[name].ok))
            for name in ("references", "distractors")
            if name in rows
        ],
    )
    return Result(
        protocol="copy-detection",
        headline="map_percent",
        figures=figures,
        settings={
            "size": size,
            "crop": "squeezed to a square",
            "feature": _view(contestants[0], size).get("feature", "as embedded"),
            "whitening_fitted_on": fitted_on,
            "whitening_components": {name: one.components for name, one in found.items()},
            "scores_normalised": "background" in rows,
        },
        data={
            "source": copies.source,
            "queries": len(task.queries),
            "queries_without_original": sum(not own for own in task.originals),
            **{name: int(part.ok.sum()) for name, part in rows.items() if name != "queries"},
        },
        images=sum(map(len, lists.values())),
        failed=failed,
        excluded=excluded,
        tables={"transforms": _transforms_table(found, task)},
        pictures={"hardest": hardest},
    )


def _view(contestant: Contestant, size: int) -> dict[str, Any]:
    """The way a contestant looks at images."""
    view: dict[str, Any] = {"size": (size, size), "crop": "none"}
    if isinstance(contestant, Network):
        view["feature"] = "cls+gem" if contestant.backbone.has_attention else "cls"
    return view


def _strangers(images: ImageList, name: str, excluded: list[str], **known: ImageList) -> ImageList:
    """The images of a set that are in none of the others, which are named."""
    for what, others in known.items():
        found = repeats(images, of=others)
        if found:
            shown = first_names([images.name(i) for i in found])
            excluded.append(f"{len(found)} images of {name} are {what}, byte for byte{shown}")
        images = images.select([i for i in range(len(images)) if i not in found])
    return images


def _task(
    copies: Copies,
    query_ok: np.ndarray,
    reference_ok: np.ndarray,
    excluded: list[str],
) -> _Task:
    place = np.cumsum(reference_ok) - 1
    queries, names, originals, lost = [], [], [], []
    for row, i in enumerate(np.flatnonzero(query_ok).tolist()):
        own = [int(place[j]) for j in copies.originals[i] if reference_ok[j]]
        if copies.originals[i] and not own:
            lost.append(copies.queries.name(i))
            continue
        queries.append(row)
        names.append(i)
        originals.append(own)
    if lost:
        shown = first_names(lost)
        excluded.append(f"{len(lost)} queries, as their originals cannot be read{shown}")
    if not any(originals):
        raise DataError(
            f"no query of {copies.source!r} can be read together with its original; mend the "
            "images that failed"
        )
    transforms = [copies.transforms[i] for i in names]
    return _Task(np.array(queries, np.int64), names, originals, transforms)


def _found(
    name: str, features: Features, task: _Task, *, fitted_on: str, components: int | None
) -> _Found:
    distractors = [features["distractors"]] if "distractors" in features else []
    used = {
        "queries": features["queries"][task.queries],
        "references": np.concatenate([features["references"], *distractors]),
    }
    if "background" in features:
        used["background"] = features["background"]
    ways: dict[str, Features] = {PLAIN: used}
    kept = None
    with suppress(ValueError):  # features that are all equal span nothing
        whitening = fitted_whitening(features[fitted_on], components=components)
        kept = whitening.components
        ways[WHITENED] = {name: whitening(rows) for name, rows in used.items()}
    ranks: dict[str, CopyRanks] = {}
    values: dict[str, float] = {}
    spreads: dict[str, float] = {}
    for way, rows in ways.items():
        pair = rows["queries"], rows["references"], task.originals
        ranks[way] = copy_ranks(*pair)
        of_queries = mean_figures(MODEL, copy_columns(ranks[way]))
        values |= _named(way, {**of_queries.values, **pair_values(ranks[way])})
        spreads |= _named(way, of_queries.spreads)
        if "background" in rows:
            measured = pair_values(copy_ranks(*pair, background=rows["background"]))
            values |= _named(f"{way}normalised_", measured)
    return _Found(ranks, Figures(of=name, values=values, spreads=spreads), kept)


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in values.items()}


def _transforms_table(found: Mapping[str, _Found], task: _Task) -> Table:
    """A line for each transform: measures of the model, and the mAP of its floors."""
    model, *floors = found
    ways = found[model].ranks
    columns = [f"{way}{name}" for way in ways for name in TRANSFORM_MEASURES]
    rows = []
    for kind in dict.fromkeys(task.transforms):
        asked = [i for i, own in enumerate(task.originals) if own and task.transforms[i] == kind]
        if asked:
            line: list[Any] = [kind or "(not named)", len(asked)]
            for ranks in ways.values():
                own = [ranks.of_queries[i] for i in asked]
                line += [percents(measure, own).mean() for measure in TRANSFORM_MEASURES.values()]
            for floor in floors:
                own = [found[floor].ranks[PLAIN].of_queries[i] for i in asked]
                line.append(percents(average_precision, own).mean())
            rows.append(line)
    return Table(
        ["transform", "queries", *columns, *(f"map_percent of {floor}" for floor in floors)], rows
    )


def _hardest_sheet(
    ranks: CopyRanks, task: _Task, *, queries: ImageList, databases: Sequence[ImageList]
) -> Image.Image:
    """Queries whose originals are furthest behind: the query, its nearest, and the original."""
    database = [(images, i) for images in databases for i in range(len(images))]
    rows = []
    asked = np.flatnonzero([len(own) > 0 for own in task.originals])
    for at in asked[np.argsort(ranks.margins[asked], kind="stable")][:HARDEST_SHOWN].tolist():
        own, nearest = task.originals[at], int(ranks.nearest[at])
        rank = int(ranks.of_queries[at][0]) + 1
        rows.append(
            [
                Panel(picture_of(queries, task.names[at]), task.transforms[at] or "query"),
                Panel(
                    picture_of(*database[nearest]), "nearest", RIGHT if nearest in own else WRONG
                ),
                Panel(picture_of(*database[own[0]]), f"original, at place {rank}"),
            ]
        )
    return matches_sheet(rows)
