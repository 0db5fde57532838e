"""L2-regularised logistic regression on frozen features, by scikit-learn's L-BFGS."""

import logging
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from dino_infer.errors import MissingExtraError
from dino_infer.evaluate.contestants import MODEL
from dino_infer.evaluate.data.labelled import LabelledFeatures
from dino_infer.evaluate.knn import Sides
from dino_infer.evaluate.linear import (
    Trained,
    accuracy_figures,
    checked_sides,
    classification_result,
    halves,
    head_of,
)
from dino_infer.evaluate.reports.result import Result, Table

CS = tuple(10.0**power for power in np.linspace(-6, 5, 45).tolist())
COARSE = 4  # every so many of the grid are tried first: whole powers of ten
MAX_ITERATIONS = 1000
MOST_TOLERANCE, TOLERANCE = 1e-4, 1e-2  # of the gradient, and times the pull of the penalty
FEW = 50  # held-out images, below which chance may choose

logger = logging.getLogger(__name__)

Solution = tuple[Float32[np.ndarray, "classes dim"], Float32[np.ndarray, " classes"]]


def measure_logistic(
    sides: Mapping[str, Sides], *, cs: Iterable[float] = CS, seed: int = 0
) -> Result:
    """Accuracy of logistic regression on features, as DINOv2 and DINOv3 report it.

    Args:
        sides: Features by name of the contestant; the model first, then its floors. Each needs
            images to classify.
        cs: Inverse strengths of regularisation to choose from.
        seed: Seed of the held-out images.

    Returns:
        ``top1_percent`` and ``top5_percent``; tables ``classes`` and ``regularisations``, the
        picture ``confusion`` and the head, of the model.

    Raises:
        DataError: The sets were made differently or share no class.
        MissingExtraError: scikit-learn is not installed.

    Source: the grid and the held-out tenth are those of DINOv2,
        https://arxiv.org/abs/2304.07193, which draws the tenth without regard to classes.
    """
    train, val = checked_sides(sides)
    cs = tuple(cs)
    figures, chosen, found = [], {}, {}
    for name, side in sides.items():
        found[name] = train_logistic(side.train, cs=cs, seed=seed)
        figures.append(accuracy_figures(name, found[name].heads, side))
        chosen[name] = found[name].chosen
    model = found[MODEL]
    if model.images_held_out < FEW:
        logger.warning(
            "C = %g was chosen on %d held-out images, where one more or less may change it",
            model.chosen,
            model.images_held_out,
        )
    if len(cs) > 1 and model.chosen in (min(cs), max(cs)):
        logger.warning("C = %g is the end of the grid; a better one may lie beyond", model.chosen)
    return classification_result(
        "logistic",
        Sides(train, val),
        figures,
        head=model.heads[0],
        settings={"cs": chosen, "seed": seed},
        tables={"regularisations": model.held_out},
        floors=len(sides) > 1,
    )


def train_logistic(train: LabelledFeatures, *, cs: Iterable[float] = CS, seed: int = 0) -> Trained:
    """A head with the regularisation that does best on a held-out tenth of each class.

    Of the grid, every fourth value is tried first, and then those around the best of them. The
    best of all, of equal ones the strongest regularisation, is solved again with all images.

    Args:
        train: The training set.
        cs: Inverse strengths of regularisation to choose from.
        seed: Seed of the held-out images.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    cs = sorted(float(c) for c in cs)
    classes, labels = np.unique(train.labels, return_inverse=True)
    fitted, held = halves(train.labels, seed=seed)
    solver = Solver(train.matrix[fitted], labels[fitted], classes=len(classes))
    shares: dict[float, float] = {}

    def try_all(candidates: Iterable[float]) -> None:
        for c in candidates:
            weight, bias = solver(c)
            right = (train.matrix[held] @ weight.T + bias).argmax(axis=1) == labels[held]
            shares[c] = 100 * float(right.mean())

    try_all(cs[::COARSE])
    best = _best(shares)
    place = cs.index(best)
    around = cs[max(0, place - COARSE + 1) : place + COARSE]
    try_all([c for c in around if c not in shares])
    best = _best(shares)
    solution = Solver(train.matrix, labels, classes=len(classes))(best)
    table = Table(("c", "held_out_top1_percent"), sorted(shares.items()))
    return Trained([head_of(*solution, classes=classes, train=train)], best, table, len(held))


def _best(shares: Mapping[float, float]) -> float:
    return max(sorted(shares), key=lambda c: shares[c])


class Solver:
    """Solves logistic regression on one set of rows, from the solution of the nearest smaller C.

    Features are centred and scaled by one number, and ``c`` with them, which changes nothing of the
    problem: biases are free. It is solved in fewer iterations then, and a tolerance means the same
    for every network.

    Args:
        features: Rows to fit, as they are.
        labels: Class of each row, from 0; every class has a row.
        classes: Number of classes.
    """

    def __init__(
        self,
        features: Float[np.ndarray, "rows dim"],
        labels: Int64[np.ndarray, " rows"],
        *,
        classes: int,
    ) -> None:
        self._rows = features.astype(np.float64)
        self._mean = self._rows.mean(axis=0)
        self._rows -= self._mean
        self._scale = float(np.linalg.norm(self._rows)) / math.sqrt(self._rows.size) or 1.0
        self._rows /= self._scale
        self._labels, self._classes = labels, classes
        self._found: dict[
            float, tuple[Float64[np.ndarray, "_ dim"], Float64[np.ndarray, " _"]]
        ] = {}

    def __call__(self, c: float) -> Solution:
        """Weights and biases of each class that minimise cross-entropy + |weights|² / (2 c).

        Args:
            c: Inverse strength of the regularisation, with the cross-entropy summed over rows.

        Raises:
            MissingExtraError: scikit-learn is not installed.
        """
        count, dim = self._rows.shape
        if self._classes == 1:  # which scikit-learn refuses
            return np.zeros((1, dim), np.float32), np.zeros(1, np.float32)
        scaled = c * self._scale**2
        # The gradient of the mean cross-entropy ends as that of the penalty, weights / (C rows).
        tolerance = min(MOST_TOLERANCE, TOLERANCE / (scaled * count))
        model = _logistic_regression(
            C=scaled, tol=tolerance, max_iter=MAX_ITERATIONS, warm_start=True
        )
        if smaller := [other for other in self._found if other <= c]:
            model.coef_, model.intercept_ = self._found[max(smaller)]
        with warnings.catch_warnings():
            # Of an optimum that is not reached, which we log.
            warnings.simplefilter("ignore")
            model.fit(self._rows, self._labels)
        if int(model.n_iter_.max()) >= MAX_ITERATIONS:
            logger.info("logistic regression with C = %g: %d iterations", c, MAX_ITERATIONS)
        self._found[c] = model.coef_, model.intercept_
        weight = model.coef_ / self._scale
        bias = model.intercept_ - weight @ self._mean
        if self._classes == 2:  # one row: the log odds of the second class
            weight = np.concatenate([np.zeros_like(weight), weight])
            bias = np.concatenate([np.zeros_like(bias), bias])
        return weight.astype(np.float32), bias.astype(np.float32)


def _logistic_regression(**settings: Any) -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError(
            "logistic regression needs scikit-learn; install it with: pip install "
            "'dino-toolkit[eval]'"
        ) from error
    return LogisticRegression(**settings)
