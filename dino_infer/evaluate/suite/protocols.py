"""Table of the protocols that ``dino-eval all`` runs, each as a function of paths."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dino_infer.evaluate.contestants import Network, with_pixels
from dino_infer.evaluate.reports.result import Result

if TYPE_CHECKING:
    from dino_infer.evaluate.knn import Sides


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One protocol, and where its data lies in a folder of the documented layout."""

    measure: Callable[..., Result]
    """Takes the networks, ``seed``, and what ``arguments`` names."""
    layout: Mapping[str, str]
    """Places below the folder, by name of the argument."""
    parts: Sequence[str] = ()
    """Places that must exist for it to run; by default those of ``layout``."""
    needs_patches: bool = False
    """True if it measures Vision Transformers alone."""

    @property
    def needed(self) -> Sequence[str]:
        """Places below the folder that must exist."""
        return self.parts or tuple(self.layout.values())

    @property
    def arguments(self) -> dict[str, type]:
        """Types of the arguments that a TOML file may name."""
        return {
            name: Path if parameter.annotation == Path | None else parameter.annotation
            for name, parameter in self._parameters().items()
        }

    @property
    def required(self) -> list[str]:
        """Names of the arguments without a default."""
        parameters = self._parameters().items()
        return [name for name, parameter in parameters if parameter.default is parameter.empty]

    def _parameters(self) -> dict[str, inspect.Parameter]:
        parameters = inspect.signature(self.measure).parameters
        return {name: parameters[name] for name in parameters if name not in ("networks", "seed")}


def _knn(networks: Sequence[Network], *, seed: int, train: Path, val: Path) -> Result:
    from dino_infer.evaluate.knn import measure_knn

    return measure_knn(_sides(networks, train, val), seed=seed, device=networks[0].device)


def _linear(networks: Sequence[Network], *, seed: int, train: Path, val: Path) -> Result:
    from dino_infer.evaluate.linear import measure_linear, published_feature

    sides = _sides(networks, train, val, feature=published_feature(networks[0].backbone))
    return measure_linear(sides, seed=seed, device=networks[0].device)


def _logistic(networks: Sequence[Network], *, seed: int, train: Path, val: Path) -> Result:
    from dino_infer.evaluate.logistic import measure_logistic

    return measure_logistic(_sides(networks, train, val), seed=seed)


def _few_shot(networks: Sequence[Network], *, seed: int, train: Path, val: Path) -> Result:
    from dino_infer.evaluate.few_shot import measure_few_shot

    return measure_few_shot(_sides(networks, train, val), seed=seed, device=networks[0].device)


def _segmentation(networks: Sequence[Network], *, seed: int, data: Path, size: int = 480) -> Result:
    from dino_infer.evaluate.data.masks import masked_images
    from dino_infer.evaluate.segmentation import measure_segmentation

    return measure_segmentation(networks, masked_images(str(data)), size=size)


def _objects(networks: Sequence[Network], *, seed: int, data: Path, size: int = 480) -> Result:
    from dino_infer.evaluate.data.annotated import with_mask_boxes
    from dino_infer.evaluate.data.masks import masked_images
    from dino_infer.evaluate.objects import measure_objects

    return measure_objects(networks, with_mask_boxes(masked_images(str(data))), size=size)


def _dense_knn(networks: Sequence[Network], *, seed: int, data: Path, size: int = 512) -> Result:
    from dino_infer.evaluate.data.mask_sets import mask_sets
    from dino_infer.evaluate.dense_knn import DenseOptions, measure_dense_knn

    sets = mask_sets(data, seed=seed)
    return measure_dense_knn(networks, sets, options=DenseOptions(size=size, seed=seed))


def _video(networks: Sequence[Network], *, seed: int, data: Path, size: int = 480) -> Result:
    from dino_infer.evaluate.data.frames import video_sequences
    from dino_infer.evaluate.following import Following
    from dino_infer.evaluate.video import measure_video

    return measure_video(networks, video_sequences(data), following=Following(size=size))


def _copy_detection(
    networks: Sequence[Network],
    *,
    seed: int,
    data: Path,
    distractors: Path | None = None,
    background: Path | None = None,
    size: int = 320,
) -> Result:
    from dino_infer.evaluate.copy_detection import measure_copy_detection
    from dino_infer.evaluate.data.copies import read_copies
    from dino_infer.sources.image_list import list_images

    return measure_copy_detection(
        with_pixels(networks),
        read_copies(data),
        distractors=None if distractors is None else list_images([distractors]),
        background=None if background is None else list_images([background]),
        size=size,
    )


def _retrieval(
    networks: Sequence[Network], *, seed: int, train: Path | None = None, val: Path
) -> Result:
    from dino_infer.evaluate.data.labelled import labelled_images
    from dino_infer.evaluate.retrieval.classes import measure_retrieval

    sides = [labelled_images(str(side)) for side in (train, val) if side is not None]
    return measure_retrieval(with_pixels(networks), *sides)


def _revisited(networks: Sequence[Network], *, seed: int, data: Path) -> Result:
    from dino_infer.evaluate.data.revisited import read_revisited
    from dino_infer.evaluate.retrieval.revisited import measure_revisited

    return measure_revisited(with_pixels(networks), read_revisited(data))


def _health(networks: Sequence[Network], *, seed: int, data: Path) -> Result:
    from dino_infer.evaluate.health import measure_health, prototypes_of
    from dino_infer.sources.image_list import list_images

    images = list_images([data])
    return measure_health(
        with_pixels(networks),
        images,
        source=str(data),
        seed=seed,
        prototypes=prototypes_of(networks[0]),
    )


def _sides(networks: Sequence[Network], train: Path, val: Path, **view: Any) -> "dict[str, Sides]":
    from dino_infer.evaluate.knn import sides_of

    return sides_of(str(train), str(val), contestants=with_pixels(networks), **view)


LABELLED = {"train": "train", "val": "val"}
HERE = {"data": "."}
MASKED = ("images", "masks")

PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol(measure=_knn, layout=LABELLED),
    "linear": Protocol(measure=_linear, layout=LABELLED),
    "logistic": Protocol(measure=_logistic, layout=LABELLED),
    "few-shot": Protocol(measure=_few_shot, layout=LABELLED),
    "dense-knn": Protocol(measure=_dense_knn, layout=HERE, parts=MASKED, needs_patches=True),
    "segmentation": Protocol(measure=_segmentation, layout=HERE, parts=MASKED, needs_patches=True),
    "objects": Protocol(measure=_objects, layout=HERE, parts=MASKED, needs_patches=True),
    "copy-detection": Protocol(measure=_copy_detection, layout={"data": "copies"}),
    "retrieval": Protocol(measure=_retrieval, layout=LABELLED),
    "revisited": Protocol(measure=_revisited, layout={"data": "revisited"}),
    "video": Protocol(measure=_video, layout={"data": "video"}, needs_patches=True),
    "health": Protocol(measure=_health, layout={"data": "val"}),
}
"""Protocols by name of the verb, in the order in which they run."""
