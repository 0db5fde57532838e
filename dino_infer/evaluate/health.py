"""Health of features without any label: effective ranks, spread, and unique prototypes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dino_infer.choices import Crop
from dino_infer.devices import cpu_threads, one_thread_each
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError
from dino_infer.evaluate.contestants import Contestant, Exported, Network
from dino_infer.evaluate.measures.health import feature_std, lidar, rankme, unique_prototypes
from dino_infer.evaluate.reports.result import Figures, Result, Table
from dino_infer.evaluate.reports.spectrum import spectrum_picture
from dino_infer.images.read import read_image
from dino_infer.progress import Progress
from dino_infer.sources.image_list import ImageList
from dino_infer.weights.files import read_weight_file
from dino_infer.weights.run_folders import snapshots_of

VIEWS, VIEW_IMAGES = 10, 1000
AREA, ASPECT = (0.25, 1.0), (3 / 4, 4 / 3)
"""Ranges of a view's share of the image, and of its width by its height."""


def measure_health(
    contestants: Sequence[Contestant],
    images: ImageList,
    *,
    source: str = "",
    size: int | None = None,
    crop: Crop = "center",
    views: int = VIEWS,
    view_images: int = VIEW_IMAGES,
    seed: int = 0,
    prototypes: Float[Tensor, "prototypes dim"] | None = None,
) -> Result:
    """Numbers that tell whether features have collapsed, for each contestant.

    Args:
        contestants: The model first, then its floors, see ``with_pixels``.
        images: Any images; ranks cannot exceed their number.
        source: Name of the images in the report.
        size: See ``Network.rows``.
        crop: See ``Network.rows``.
        views: Views of each image for LiDAR, see ``random_views``; 0 leaves it out, as exported
            weights do.
        view_images: Images that views are made of, drawn by the seed.
        seed: Seed of the draw and of the views: each image has its own.
        prototypes: Prototypes of the model, see ``prototypes_of``.

    Returns:
        ``rankme``, ``lidar``, ``feature_std`` and, of the model, ``unique_prototypes_percent``;
        table ``spectrum``, the singular values of the features, and its picture.

    Raises:
        DataError: Fewer than 2 images can be read.
    """
    figures = []
    spectra = {}
    failed = 0
    for contestant in contestants:
        rows = contestant.rows(images, feature="cls", size=size, crop=crop)
        if len(rows.features) < 2:
            raise DataError(
                f"health needs at least 2 images, got {len(rows.features)} that can be read"
            )
        failed = rows.failed
        values, spectra[contestant.name] = feature_health(rows.features)
        if views and not isinstance(contestant, Exported):
            chosen = _drawn(np.flatnonzero(rows.ok), view_images, seed=seed)
            side = size or (contestant.info.view_size if isinstance(contestant, Network) else 0)
            embedder = contestant.embedder(feature="cls", size=(side, side), crop="none")
            seen = view_features(embedder, images, chosen, views=views, seed=seed)
            values["lidar"] = lidar(torch.from_numpy(seen))
        figures.append(Figures(of=contestant.name, values=values))
    if prototypes is not None:
        share = unique_prototypes(prototypes) / len(prototypes)
        values = {**figures[0].values, "unique_prototypes_percent": 100 * share}
        figures[0] = Figures(of=figures[0].of, values=values)
    return Result(
        protocol="health",
        headline="rankme",
        figures=figures,
        settings={
            **contestants[0].description(feature="cls", size=size, crop=crop),
            "views": views,
            "view_images": min(view_images, len(images) - failed),
            "seed": seed,
        },
        data={
            "source": source,
            "images": len(images) - failed,
            "prototypes": 0 if prototypes is None else len(prototypes),
        },
        images=len(images),
        failed=failed,
        tables={"spectrum": _spectrum_table(spectra)},
        pictures={"spectrum": spectrum_picture(spectra)},
    )


def feature_health(
    features: Float[np.ndarray, "images dim"],
) -> tuple[dict[str, float], Float[np.ndarray, " directions"]]:
    """RankMe and spread of features, and their singular values from the largest on."""
    rows = torch.from_numpy(features)
    values = {"rankme": rankme(rows), "feature_std": float(feature_std(rows))}
    return values, torch.linalg.svdvals(rows.float()).numpy()


def view_features(
    embedder: Embedder,
    images: ImageList,
    chosen: Sequence[int],
    *,
    views: int,
    seed: int,
) -> Float[np.ndarray, "chosen views dim"]:
    """Features of several random views of each chosen image.

    Args:
        embedder: Embedder that shows the network the whole of each view.
        images: List of the images.
        chosen: Places in the list of images that can be read.
        views: Views of each image.
        seed: Seed of the views, together with the place.
    """
    at_once = max(1, embedder.batch_size // views)
    parts = [chosen[start : start + at_once] for start in range(0, len(chosen), at_once)]

    def features_of(part: Sequence[int]) -> Float[np.ndarray, "views dim"]:
        pixels = [
            embedder.preprocess.pixels(view)
            for place in part
            for view in random_views(
                read_image(images.read(place), path=images.location(place)),
                views,
                rng=np.random.default_rng((seed, place)),
            )
        ]
        return embedder.features(pixels)

    rows = []
    with (
        Progress("views", total=len(chosen)) as progress,
        one_thread_each(cpu_threads(embedder.workers)) as pool,
    ):
        for part, found in zip(parts, pool.map(features_of, parts), strict=True):
            rows.append(found)
            progress.advance(len(part))
    features = np.concatenate(rows)
    return features.reshape(len(chosen), views, -1)


def random_views(
    image: UInt8[np.ndarray, "height width 3"], count: int, *, rng: np.random.Generator
) -> Iterator[UInt8[np.ndarray, "_height _width 3"]]:
    """Rectangles of an image with 25 to 100 % of its area, each mirrored with probability 1/2.

    Aspects are drawn between 3:4 and 4:3 in the logarithm, as for training crops; sides are cut to
    those of the image. There is no change of colour.
    """
    height, width = image.shape[:2]
    for _ in range(count):
        area = height * width * rng.uniform(*AREA)
        aspect = np.exp(rng.uniform(*np.log(ASPECT)))
        rows = min(height, max(1, round(float(np.sqrt(area / aspect)))))
        columns = min(width, max(1, round(float(np.sqrt(area * aspect)))))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        view = image[top : top + rows, left : left + columns]
        yield np.ascontiguousarray(view[:, ::-1] if rng.random() < 0.5 else view)


def prototypes_of(network: Network) -> Float[Tensor, "prototypes dim"] | None:
    """Prototypes of the projection head in the weights of a network, None where there is no head.

    The checkpoint of a run folder holds the backbone alone; its newest snapshot has the head.

    Raises:
        CheckpointError: The weights are missing or damaged.
    """
    weights = network.weights
    if weights is None or str(weights).startswith("timm:"):
        return None
    snapshots = list(snapshots_of(Path(weights)).values())
    file = read_weight_file(
        snapshots[-1] if snapshots else weights, checkpoint_key=network.checkpoint_key
    )
    return file.head.get("last_layer.weight_v", file.head.get("last_layer.weight"))


def _drawn(places: np.ndarray, count: int, *, seed: int) -> list[int]:
    """Some places, ascending."""
    order = np.random.default_rng(seed).permutation(len(places))[:count]
    chosen: list[int] = np.sort(places[order]).tolist()
    return chosen


def _spectrum_table(spectra: dict[str, Any]) -> Table:
    longest = max(map(len, spectra.values()))
    rows = [
        [i + 1, *(float(values[i]) if i < len(values) else "" for values in spectra.values())]
        for i in range(longest)
    ]
    return Table(("direction", *spectra), rows)
