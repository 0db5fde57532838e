"""Dense k-NN: classes of pixels, by the nearest patches of other images.

Patches of training images with the classes of their pixels are a memory. A patch of another image
takes the classes of its nearest patches there; nothing is trained. A logistic regression on the
patches of the memory stands beside it.

Source: Balazevic et al. 2023, https://arxiv.org/abs/2306.01667 ("HummingBird").
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64

from dino_infer.attention.grids import check_patch_fits
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError
from dino_infer.evaluate.contestants import MODEL, PIXELS, Network
from dino_infer.evaluate.data.mask_sets import MaskSets
from dino_infer.evaluate.measures.patch_labels import class_iou, mean_iou, mean_iou_spread, tally
from dino_infer.evaluate.measures.soft_logistic import choose_soft_logistic
from dino_infer.evaluate.patch_memory import (
    MemoryBank,
    Predictor,
    mean_color_embedder,
    memory_banks,
    nearest_labels,
    patch_features,
    predicted_classes,
)
from dino_infer.evaluate.reports.mask_pictures import (
    Panels,
    best_and_worst,
    label_overlay,
    mask_sheet,
)
from dino_infer.evaluate.reports.result import Figures, Result, Table

SIZE = 512
K, TEMPERATURE = 30, 0.02
MEMORY_SIZE = 102_400
KNN, LOGISTIC = "miou_percent", "logistic_miou_percent"
FREQUENT = "most frequent class"

Tallies = Int64[np.ndarray, "images 3 classes"]
"""Pixels of each class in each image: right, in the ground truth, and in the prediction."""


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """Settings of dense k-NN; the defaults are those of published figures."""

    size: int = SIZE
    """Side in pixels of the square that images are squeezed into, cut to a multiple of a patch."""
    k: int = K
    """Number of neighbours."""
    temperature: float = TEMPERATURE
    """Temperature of the attention over neighbours; lower gives the nearest more weight."""
    memory_size: int = MEMORY_SIZE
    """Most patches of a memory."""
    subsets: tuple[int, ...] = (1,)
    """Denominators of the shares of training images to learn from: 8 takes one image of 8."""
    logistic: bool = True
    """Add the logistic regression, on the largest of the subsets."""
    seed: int = 0
    """Seed of the choice of patches, and of the spread over images."""

    def __post_init__(self) -> None:
        for name in ("size", "k", "temperature", "memory_size", "subsets"):
            value = getattr(self, name)
            if not min(value if isinstance(value, tuple) else (value,), default=0) > 0:  # NaN too
                raise ValueError(f"`{name}` must be above 0, got {value}")


DEFAULT_OPTIONS = DenseOptions()


def measure_dense_knn(
    networks: Sequence[Network], sets: MaskSets, *, options: DenseOptions = DEFAULT_OPTIONS
) -> Result:
    """Mean Jaccard index of classes of pixels found by the nearest patches of other images.

    Args:
        networks: Vision Transformers: the one to measure, and with floors its untrained twin.
        sets: Images with masks: a memory, and the queries.
        options: Settings.

    Returns:
        Means over the classes that occur in the masks or predictions of the queries, with their
        standard deviation over draws of query images.

    Raises:
        CheckpointError: A network has no patch tokens.
        DataError: No image of a set can be read.
        ValueError: The size is below one patch.
    """
    grid, side = _grid(networks[0], options.size)
    tallies: dict[str, dict[str, Tallies]] = {}
    for name, embedder in _embedders(networks, side).items():
        predictors, unread = _predictors(embedder, sets, grid, options)
        tallies[name], places = _tallies(embedder, sets, predictors, grid)
        if name == MODEL:
            failed = unread + len(sets.queries) - len(places)
            first, predict = next(iter(predictors.items()))
            scores = 100 * np.array([mean_iou(one[None]) for one in tallies[name][first]])
            images = [
                [sets.queries.name(i), round(float(score), 2)]
                for i, score in zip(places, scores, strict=True)
            ]
            panels = _panels(embedder, sets, predict, grid, _shown(places, scores))
            sheet = mask_sheet(panels, titles=("ground truth", "prediction"))
    if len(networks) > 1:
        tallies[FREQUENT] = {
            name: _most_frequent(sets, one) for name, one in tallies[MODEL].items()
        }
    return Result(
        protocol="dense-knn",
        headline=first,
        figures=[_figures(name, found, options.seed) for name, found in tallies.items()],
        settings={
            **asdict(options),
            "size": side,
            "spread": "standard deviation over draws of query images with replacement",
        },
        data={
            "source": sets.memory.source,
            "queries_source": sets.queries.source,
            "levels": sets.memory.levels,
            "memory_images": len(sets.memory),
            "query_images": len(sets.queries),
            "classes": len(sets.classes),
            "classes_without_example": int((sets.pixels == 0).sum()),
        },
        images=sets.requested,
        failed=sets.failed + failed,
        excluded=sets.excluded,
        tables={
            "images": Table(["image", first], images),
            "classes": _class_table(sets, tallies),
        },
        pictures={"sheet": sheet},
    )


def _grid(network: Network, size: int) -> tuple[tuple[int, int], int]:
    """Patches per column and per row, and the side in pixels that they fill."""
    check_patch_fits(network.backbone, size)
    count = size // network.backbone.patch_size
    return (count, count), count * network.backbone.patch_size


def _embedders(networks: Sequence[Network], side: int) -> dict[str, Embedder]:
    size = (side, side)
    found = {one.name: one.embedder(feature="patches", size=size, crop="none") for one in networks}
    if len(networks) > 1:
        found[PIXELS] = mean_color_embedder(size, networks[0].backbone.patch_size)
    return found


def _predictors(
    embedder: Embedder, sets: MaskSets, grid: tuple[int, int], options: DenseOptions
) -> tuple[dict[str, Predictor], int]:
    """Predictors by the name of their figure, and the number of images that could not be read."""
    used = sets.subset(min(options.subsets))
    banks = memory_banks(
        patch_features(embedder, used, what="memory"),
        sets,
        grid=grid,
        size=options.memory_size,
        subsets=options.subsets,
        seed=options.seed,
    )
    predictors = {
        KNN if share == 1 else f"miou_1_{share}_percent": nearest_labels(
            bank, k=options.k, temperature=options.temperature, device=embedder.device
        )
        for share, bank in zip(options.subsets, banks, strict=True)
    }
    if options.logistic:
        largest = options.subsets.index(min(options.subsets))
        predictors[LOGISTIC] = _logistic(banks[largest], embedder)
    return predictors, len(used) - max(len(set(bank.images.tolist())) for bank in banks)


def _logistic(bank: MemoryBank, embedder: Embedder) -> Predictor:
    """The logistic regression; a class without an example gets no score."""
    known = bank.labels.sum(axis=0) > 0
    fitted = choose_soft_logistic(
        bank.features, bank.labels[:, known], bank.images, device=embedder.device
    )

    def predict(rows: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows classes"]:
        scores = np.zeros((len(rows), len(known)), np.float32)
        scores[:, known] = fitted(rows)
        return scores

    return predict


def _tallies(
    embedder: Embedder,
    sets: MaskSets,
    predictors: Mapping[str, Predictor],
    grid: tuple[int, int],
) -> tuple[dict[str, Tallies], list[int]]:
    """Tallies of each predictor, and the places of the queries that could be read."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in predictors}
    places = []
    patches = patch_features(embedder, sets.queries, what="queries")
    for one in predicted_classes(patches, sets, predictors, grid=grid):
        places.append(one.place)
        for name, classes in one.found.items():
            found[name].append(tally(one.wanted, classes, classes_number=len(sets.classes)))
    if not places:
        raise DataError(f"no image of {sets.queries.source!r} could be read")
    return {name: np.stack(rows) for name, rows in found.items()}, places


def _most_frequent(sets: MaskSets, tallies: Tallies) -> Tallies:
    """Tallies of the answer that every pixel is of the class most frequent in the memory."""
    most = int(sets.pixels.argmax())
    wanted = tallies[:, 1]
    right, found = np.zeros_like(wanted), np.zeros_like(wanted)
    right[:, most], found[:, most] = wanted[:, most], wanted.sum(axis=1)
    return np.stack([right, wanted, found], axis=1)


def _figures(of: str, tallies: Mapping[str, Tallies], seed: int) -> Figures:
    return Figures(
        of=of,
        values={name: 100 * mean_iou(one) for name, one in tallies.items()},
        spreads={name: 100 * mean_iou_spread(one, seed=seed) for name, one in tallies.items()},
    )


def _class_table(sets: MaskSets, tallies: Mapping[str, Mapping[str, Tallies]]) -> Table:
    """Jaccard index of each class for every contestant."""
    columns = {
        f"{of}: {name}": (100 * class_iou(one)).round(2).tolist()
        for of, found in tallies.items()
        for name, one in found.items()
    }
    rows = zip(sets.classes.tolist(), sets.pixels.tolist(), *columns.values(), strict=True)
    return Table(["class", "memory_pixels", *columns], list(rows))


def _shown(places: Sequence[int], scores: Float64[np.ndarray, " images"]) -> dict[int, float]:
    """Scores of the best queries and the worst, by place."""
    return {places[i]: float(scores[i]) for i in best_and_worst(scores)}


def _panels(
    embedder: Embedder,
    sets: MaskSets,
    predict: Predictor,
    grid: tuple[int, int],
    shown: Mapping[int, float],
) -> Iterator[Panels]:
    chosen = replace(sets, queries=sets.queries.select(list(shown)))
    patches = patch_features(embedder, chosen.queries, what="sheet")
    scores, count = list(shown.values()), len(sets.classes)
    for one in predicted_classes(patches, chosen, {KNN: predict}, grid=grid):
        picture = chosen.queries.picture(one.place)
        yield Panels(
            title=f"{chosen.queries.name(one.place)}: {scores[one.place]:.0f} %",
            pictures=[
                picture,
                label_overlay(picture, one.wanted, classes_number=count),
                label_overlay(picture, one.found[KNN], classes_number=count),
            ],
        )
