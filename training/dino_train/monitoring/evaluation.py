"""Measurement of the teacher: RankMe always, k-NN accuracy where there are labels."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import CheckpointError, DataError, TrainingError
from dino_infer.evaluate.measures.health import rankme
from dino_infer.images.preprocess import Preprocess
from dino_infer.knn.classifier import accuracies, nearest, nearest_others
from dino_infer.networks.backbone import Backbone
from dino_infer.sources.image_list import ImageList, list_images

logger = logging.getLogger(__name__)

RANKME_IMAGES = 512  # 2 to 6 % below that of 8,192: benchmarks/reports/train_step_2026-11.md
KNN_K = 20
MEASURES = ("rankme", "knn_top1_percent", "unique_prototypes_share")


class Evaluation:
    """Measures a backbone on fixed images.

    An even sample of the training images gives RankMe; without ``eval_data`` it is all. That is a
    folder of class folders, where each image is classified by all the others, or a folder that
    holds such folders as ``train/``, the neighbours, and ``val/``, which are classified.

    Raises:
        DataError: ``eval_data`` has no class folders, or the classes of its parts differ.
    """

    def __init__(
        self,
        images: ImageList,
        *,
        eval_data: Path | None,
        preprocess: Preprocess,
        batch_size: int,
        workers: int,
        device: torch.device,
    ) -> None:
        sample = np.unique(np.linspace(0, len(images) - 1, RANKME_IMAGES).astype(int))
        self._sample = images.select(sample)
        self._preprocess = preprocess
        self._batch_size = batch_size
        self._workers = workers
        self._device = device
        self._bank: ImageList | None = None
        self._queries: ImageList | None = None
        if eval_data is None:
            return
        if (eval_data / "train").is_dir() and (eval_data / "val").is_dir():
            self._bank = _labelled(eval_data / "train")
            self._queries = _labelled(eval_data / "val")
            unknown = set(_classes(self._queries)) - set(_classes(self._bank))
            if unknown:
                raise DataError(
                    f"{str(eval_data / 'val')!r} has classes that train/ lacks: "
                    f"{', '.join(sorted(unknown)[:5])}"
                )
        else:
            self._bank = _labelled(eval_data)

    def measure(self, backbone: Backbone) -> dict[str, float]:
        """``rankme``, and ``knn_top1_percent`` (k = 20) where there are labels.

        Raises:
            TrainingError: The backbone gives features that are not finite.
        """
        try:
            return self._numbers(backbone)
        except CheckpointError as error:
            raise TrainingError(
                "the teacher gives features that are not finite: training has diverged, or started "
                "from damaged weights; lower `optim.lr`, set `optim.clip_grad=0.3` or use "
                "`optim.precision='fp32'`"
            ) from error

    def _numbers(self, backbone: Backbone) -> dict[str, float]:
        was_training = backbone.training
        embedder = Embedder(
            backbone,
            self._preprocess,
            device=self._device,
            batch_size=self._batch_size,
            workers=self._workers,
        )
        numbers = {"rankme": rankme(torch.from_numpy(embedder.embed(self._sample).features))}
        if self._bank is not None:
            bank, labels = _features(embedder, self._bank)
            if self._queries is None:
                found, query_labels = nearest_others(bank, k=min(KNN_K, len(bank) - 1)), labels
            else:
                queries, query_labels = _features(embedder, self._queries)
                found = nearest(bank, queries, k=min(KNN_K, len(bank)))
            accuracy = accuracies(found, labels, query_labels, ks=[KNN_K])[KNN_K]
            numbers["knn_top1_percent"] = accuracy.top1_percent
        backbone.train(was_training)
        return numbers


def measured_at(epoch: float, rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Numbers that rows of metrics have for the end of an epoch; empty if they have none."""
    for row in rows:
        if row.get("epoch") == epoch and "rankme" in row:
            return {name: row[name] for name in MEASURES if name in row}
    return {}


def in_words(numbers: Mapping[str, float]) -> str:
    """Numbers of a measurement for a log line."""
    words = f"RankMe {numbers['rankme']:.1f}"
    if "knn_top1_percent" in numbers:
        words += f", k-NN top-1 {numbers['knn_top1_percent']:.1f} %"
    if "unique_prototypes_share" in numbers:
        words += f", unique prototypes {numbers['unique_prototypes_share']:.0%}"
    return words


def _features(embedder: Embedder, images: ImageList) -> tuple[np.ndarray, np.ndarray]:
    """Features and class names of the images that can be read."""
    embedding = embedder.embed(images)
    labels = images.labels()
    assert labels is not None, "checked when the evaluation was built"
    return embedding.features, np.array(labels[1])[labels[0]][embedding.ok]


def _labelled(folder: Path) -> ImageList:
    images = list_images([folder])
    if images.labels() is None:
        raise DataError(
            f"`eval_data` needs a folder for each class, but {str(folder)!r} has images outside "
            "class folders; arrange it as CLASS/IMAGE, or leave `eval_data` out"
        )
    return images


def _classes(images: ImageList) -> tuple[str, ...]:
    labels = images.labels()
    return labels[1] if labels else ()
