"""k-NN classification of labelled images, from feature files or folders."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from dino_infer.embed import Embedder
from dino_infer.errors import DataError
from dino_infer.features import class_names, read_features
from dino_infer.knn import TEMPERATURE, Accuracy, accuracies, nearest, nearest_others
from dino_infer.listing import list_images

logger = logging.getLogger(__name__)

# Of Embedder.description: features that differ in these cannot be compared.
MUST_AGREE = ("weights_sha256", "feature", "preprocess")


class LabelledFeatures(NamedTuple):
    """Features with a class name each, and where they come from."""

    source: str
    matrix: Float[np.ndarray, "rows dim"]
    labels: Shaped[np.ndarray, " rows"]
    description: Mapping[str, Any]
    images: int
    """Images that were asked for."""
    failed: int
    """Those of them that could not be read."""


def labelled_features(source: str, *, embedder: Callable[[], Embedder]) -> LabelledFeatures:
    """The features that a name on the command line stands for.

    Args:
        source: A feature file ending in ``.npy``, or a folder of class folders or a tar of
            labelled images.
        embedder: Called when images must be embedded.

    Raises:
        DataError: There are no labels, no rows, or the files cannot be used.
    """
    if source.endswith(".npy"):
        features = read_features(source)
        made = features.manifest
        matrix, labels = features.matrix, features.labels
        images, failed = made.get("images", len(matrix)), made.get("failed", 0)
        description: Mapping[str, Any] = made
    else:
        listed = list_images([source])
        labels = class_names(listed)
        if labels is None:
            raise DataError(_unlabelled(source))
        network = embedder()
        embedding = network.embed(listed)
        matrix, labels = embedding.features, labels[embedding.ok]
        images, failed = len(listed), len(embedding.failures)
        description = network.description()
    if labels is None:
        raise DataError(_unlabelled(source))
    if not len(matrix):
        raise DataError(f"{source!r} has no feature rows")
    return LabelledFeatures(source, matrix, labels, description, images, failed)


def knn_accuracies(
    train: LabelledFeatures,
    val: LabelledFeatures | None,
    *,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, Accuracy]:
    """Accuracies in percent for each k, from one search.

    Args:
        train: The neighbours.
        val: What is classified; None classifies each training image by all the others.
        ks: Numbers of neighbours.
        temperature: Of the vote.

    Raises:
        DataError: The two sets were made differently, share no class, or hold unusable rows.
    """
    if val is not None:
        _check_comparable(train, val)
    try:
        if val is None:
            found = nearest_others(train.matrix, k=max(ks))
        else:
            found = nearest(train.matrix, val.matrix, k=max(ks))
    except ValueError as error:
        sources = train.source if val is None else f"{train.source} and {val.source}"
        raise DataError(f"k-NN on {sources}: {error}") from error
    wanted = train.labels if val is None else val.labels
    return accuracies(found, train.labels, wanted, ks=ks, temperature=temperature)


def _check_comparable(train: LabelledFeatures, val: LabelledFeatures) -> None:
    differ = [key for key in MUST_AGREE if train.description.get(key) != val.description.get(key)]
    if differ or train.matrix.shape[1] != val.matrix.shape[1]:
        raise DataError(
            f"{train.source!r} and {val.source!r} cannot be compared: they differ in "
            f"{', '.join(differ) or 'width'}; embed both with the same weights and size"
        )
    unknown = sorted(set(val.labels) - set(train.labels))
    if len(unknown) == len(set(val.labels)):
        raise DataError(
            f"{val.source!r} and {train.source!r} share no class; the first are {unknown[0]!r} "
            f"and {min(train.labels)!r}"
        )
    if unknown:
        logger.warning(
            "%d classes of %s have no training image and count as wrong: %s",
            len(unknown),
            val.source,
            ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else ""),
        )


def _unlabelled(source: str) -> str:
    return f"{source!r} has no labels; put the images into a folder for each class, CLASS/IMAGE"
