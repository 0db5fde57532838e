"""Weighted k-nearest-neighbour classification on features.

Features are L2-normalised, neighbours are found by exact inner product, and each votes for its
class with weight ``exp(similarity / temperature)``; ``votes`` has the rule. Accuracies for several
k come from one search.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Shaped

from dino_infer.knn.neighbors import Array, Neighbors, exact_neighbors, normalized
from dino_infer.knn.votes import TEMPERATURE, Ranking, Tally, rankings

TOP = 5  # the second accuracy that is reported

logger = logging.getLogger(__name__)


class Accuracy(NamedTuple):
    """Share of queries whose class ranks first, and among the first min(5, k).

    A class that got no vote has no rank, as in the original with its 1,000 classes.
    """

    top1_percent: float
    top5_percent: float


def nearest(
    train_features: Shaped[Array, "train dim"],
    query_features: Shaped[Array, "queries dim"],
    *,
    k: int,
    device: str | torch.device = "cpu",
) -> Neighbors:
    """Exact nearest training rows of each query by cosine similarity.

    Args:
        train_features: Any scale; normalised here.
        query_features: Any scale; normalised here.
        k: Neighbours wanted; more than there are gives all, with a warning.
        device: Device to search arrays on; tensors are searched where they are.

    Raises:
        ValueError: No training row, a width that differs, or values that are not finite.
        DinoError: No such device here.
    """
    _check_rows(train_features)
    _check_width(query_features, train_features.shape[1])
    k = clamped_k(k, available=len(train_features))
    train, queries = normalized(train_features), normalized(query_features)
    return exact_neighbors(train, queries, k=k, device=device)


def nearest_others(
    features: Shaped[Array, "rows dim"], *, k: int, device: str | torch.device = "cpu"
) -> Neighbors:
    """Exact nearest rows of each row among the others, for leave-one-out evaluation.

    Raises:
        ValueError: Fewer than two rows, or values that are not finite.
        DinoError: No such device here.
    """
    if len(features) < 2:
        raise ValueError(f"leave-one-out needs at least 2 rows, got {len(features)}")
    k = clamped_k(k, available=len(features) - 1)
    unit = normalized(features)
    similarities, rows = exact_neighbors(unit, unit, k=k + 1, device=device)
    own = rows == np.arange(len(rows))[:, None]
    # Among many equal rows a row may be behind the last; then the least similar one goes.
    own[~own.any(axis=1), -1] = True
    shape = (len(rows), k)
    return Neighbors(similarities[~own].reshape(shape), rows[~own].reshape(shape))


def clamped_k(k: int, *, available: int) -> int:
    """``k``, or ``available`` with a warning when that is fewer.

    Raises:
        ValueError: ``k`` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if k > available:
        logger.warning("k = %d is more than the %d training rows; using all", k, available)
    return min(k, available)


def accuracies(
    neighbors: Neighbors,
    train_labels: Shaped[np.ndarray, " train"],
    query_labels: Shaped[np.ndarray, " queries"],
    *,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, Accuracy]:
    """Top-1 and top-5 in percent for each k, all from one search; arguments as in ``rankings``.

    A query whose label no training row carries counts as wrong.

    Source: https://arxiv.org/abs/2104.14294, appendix F.1 (k-NN classification).
    """
    found = rankings(neighbors, train_labels, query_labels, ks=ks, temperature=temperature)
    return {k: accuracy(ranking, k=k) for k, ranking in found.items()}


def accuracy(ranking: Ranking, *, k: int) -> Accuracy:
    """Top-1 and top-5 in percent of what ``k`` neighbours voted."""
    total = len(ranking.ranks)
    if not total:
        raise ValueError("accuracies need at least one query, got none")
    hits = [int(np.count_nonzero(ranking.ranks < top)) for top in (1, min(TOP, k))]
    return Accuracy(*(100 * hit / total for hit in hits))


class KNNClassifier:
    """Weighted k-NN with scikit-learn's manners: fit, predict, predict_proba, score.

    Attributes:
        k: Neighbours that vote.
        temperature: Temperature of the vote; lower gives the nearest more weight.
        device: Device to search on: "cpu", "cuda", "cuda:N", or "auto" for a GPU if there is one.
        classes_: Sorted labels, after ``fit``.
        n_features_in_: Width of the features, after ``fit``.
    """

    def __init__(self, k: int = 20, temperature: float = TEMPERATURE, device: str = "cpu") -> None:
        self.k = k
        self.temperature = temperature
        self.device = device

    def __repr__(self) -> str:
        """Settings, and what was fitted."""
        settings = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        if not hasattr(self, "_train"):
            return f"KNNClassifier({settings})"
        rows, dim = self._train.shape
        return f"KNNClassifier({settings}), {rows} rows of {dim} in {len(self.classes_)} classes"

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name, as scikit-learn's tools expect."""
        return {"k": self.k, "temperature": self.temperature, "device": self.device}

    def set_params(self, **params: Any) -> "KNNClassifier":
        """Change settings by name."""
        for name, value in params.items():
            if name not in self.get_params():
                raise ValueError(f"no parameter {name!r}; valid: {sorted(self.get_params())}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags

        target = TargetTags(required=True)
        return Tags(
            estimator_type="classifier", target_tags=target, classifier_tags=ClassifierTags()
        )

    def fit(
        self, features: Shaped[np.ndarray, "rows dim"], labels: Shaped[np.ndarray, " labels"]
    ) -> "KNNClassifier":
        """Remember the training features and their labels.

        Raises:
            ValueError: No row, not a label for each row, or values that are not finite.
        """
        _check_rows(features)
        if len(labels) != len(features):
            raise ValueError(f"expected {len(features)} labels, one a row, got {len(labels)}")
        self._train = normalized(features)
        self.classes_, self._classes = np.unique(labels, return_inverse=True)
        self.n_features_in_ = int(features.shape[1])
        return self

    def predict_proba(
        self, features: Shaped[np.ndarray, "queries dim"]
    ) -> Float64[np.ndarray, "queries classes"]:
        """Share of the vote that each of ``classes_`` gets; rows sum to 1, no vote gives 0."""
        scores = self._counted(features).scores
        shares: np.ndarray = scores / scores.sum(axis=1, keepdims=True)
        return shares

    def predict(
        self, features: Shaped[np.ndarray, "queries dim"]
    ) -> Shaped[np.ndarray, " queries"]:
        """The label with the largest share of the vote; of equal ones that of the nearest row."""
        winners = self._counted(features).winners()
        labels: np.ndarray = self.classes_[winners]
        return labels

    def score(
        self, features: Shaped[np.ndarray, "queries dim"], labels: Shaped[np.ndarray, " queries"]
    ) -> float:
        """Share of right predictions, from 0 to 1.

        Raises:
            ValueError: There is no row.
        """
        if not len(features):
            raise ValueError("score needs at least one row, got none")
        return float(np.mean(self.predict(features) == labels))

    def _counted(self, features: Shaped[np.ndarray, "queries dim"]) -> Tally:
        if not hasattr(self, "_train"):
            raise ValueError("call fit(features, labels) before predicting")
        _check_width(features, self.n_features_in_)
        k = clamped_k(self.k, available=len(self._train))
        near = exact_neighbors(self._train, normalized(features), k=k, device=self.device)
        tally = Tally(
            near,
            self._classes[near.rows],
            classes_number=len(self.classes_),
            temperature=self.temperature,
        )
        tally.count(k)
        return tally


def _check_rows(features: Shaped[Array, "train dim"]) -> None:
    if not len(features):
        raise ValueError("k-NN needs at least one training row, got none")


def _check_width(features: Shaped[Array, "queries dim"], width: int) -> None:
    if features.shape[1] != width:
        got = tuple(features.shape)
        raise ValueError(f"queries must have the training width {width}, got shape {got}")
