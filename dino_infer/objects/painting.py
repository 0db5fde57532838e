"""Masks of many images from a few strokes: ridge regression on patches that somebody marked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int8

OBJECT, BACKGROUND, UNMARKED = 1, 0, -1
RIDGE = 0.1  # of the mean variance of the features


class PatchModel(NamedTuple):
    """A line through the space of patch features, from the background to an object."""

    mean: Float32[np.ndarray, " dim"]
    weights: Float32[np.ndarray, " dim"]

    def scores(
        self, features: Float[np.ndarray, "*leading dim"]
    ) -> Float32[np.ndarray, "*leading"]:
        """About 1 for patches of the object and -1 for the background; the border is 0."""
        scores: np.ndarray = (features - self.mean) @ self.weights
        return scores


def fit_patch_model(
    features: Sequence[Float[np.ndarray, "_rows _columns dim"]],
    marks: Sequence[Int8[np.ndarray, "_rows _columns"]],
    *,
    ridge: float = RIDGE,
) -> PatchModel:
    """Fit the model to the marked patches of some images, each class weighed as much as the other.

    It minimises the mean over both classes of (score - target)^2 plus ``ridge`` times the mean
    variance of the features times the squared length of the weights, in closed form.

    Args:
        features: Patch features of each image, such as ``patch_tokens`` gives, of one network.
        marks: ``OBJECT`` (1), ``BACKGROUND`` (0) or ``UNMARKED`` (-1) for each patch.
        ridge: Strength of the penalty; higher trusts single features less.

    Raises:
        ValueError: Features and marks do not belong together, a class has no mark, or ``ridge`` is
            not above 0.

    Source: Hoerl and Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634.
    """
    shapes = [(one.shape[:2], mark.shape) for one, mark in zip(features, marks, strict=True)]
    if any(grid != mark for grid, mark in shapes):
        raise ValueError(f"`features` and `marks` must have the same patches, got {shapes}")
    if ridge <= 0:
        raise ValueError(f"`ridge` must be above 0, got {ridge}")
    classes = [
        np.concatenate([one[mark == value] for one, mark in zip(features, marks, strict=True)])
        for value in (OBJECT, BACKGROUND)
    ]
    if not all(len(rows) for rows in classes):
        raise ValueError(
            f"both classes need marks, got {len(classes[0])} patches of the object and "
            f"{len(classes[1])} of the background"
        )
    centers = [rows.mean(axis=0) for rows in classes]
    mean = (centers[0] + centers[1]) / 2
    covariance = np.zeros((len(mean), len(mean)))
    for rows in classes:
        centred = rows - mean
        covariance += centred.T @ centred / (2 * len(rows))
    variance = float(np.trace(covariance)) / len(mean)
    penalty = ridge * (variance or 1.0)
    weights = np.linalg.solve(
        covariance + penalty * np.eye(len(mean)), (centers[0] - centers[1]) / 2
    )
    return PatchModel(mean.astype(np.float32), weights.astype(np.float32))
