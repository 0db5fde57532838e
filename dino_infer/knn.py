"""Weighted k-nearest-neighbour classification on features, with FAISS.

Features are L2-normalised, neighbours are found by exact inner product, and each votes for its
class with weight ``exp(similarity / temperature)``. Accuracies for several k come from one search.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, Shaped

TEMPERATURE = 0.07
TOP = 5  # the second accuracy that is reported
SCORES_PER_CHUNK = 2**22  # query x class scores held at a time: 32 MiB of float64

logger = logging.getLogger(__name__)


class Neighbors(NamedTuple):
    """The nearest training rows of each query, most similar first."""

    similarities: Float32[np.ndarray, "queries k"]
    rows: Int64[np.ndarray, "queries k"]


class Accuracy(NamedTuple):
    """Share of queries whose class ranks first, and among the first min(5, k)."""

    top1_percent: float
    top5_percent: float


def normalized(features: Shaped[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
    """Rows scaled to length 1 as contiguous float32; a zero row stays zero.

    Raises:
        ValueError: A value is not finite; the message names the first such row.
    """
    rows = np.array(features, dtype=np.float32, order="C")
    if not np.isfinite(rows).all():
        first = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"features must be finite, but row {first} holds NaN or infinity")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    np.divide(rows, norms, out=rows, where=norms > 0)
    return rows


def nearest(
    train_features: Shaped[np.ndarray, "train dim"],
    query_features: Shaped[np.ndarray, "queries dim"],
    *,
    k: int,
) -> Neighbors:
    """Exact nearest training rows of each query by cosine similarity.

    Args:
        train_features: Any scale; normalised here.
        query_features: Any scale; normalised here.
        k: Neighbours wanted; more than there are gives all, with a warning.

    Raises:
        ValueError: No training row, a width that differs, or values that are not finite.
    """
    index = _flat_index(train_features)
    queries = _checked_queries(query_features, dim=index.d)
    return Neighbors(*index.search(queries, clamped_k(k, available=index.ntotal)))


def nearest_others(features: Shaped[np.ndarray, "rows dim"], *, k: int) -> Neighbors:
    """Exact nearest rows of each row among the others, for leave-one-out evaluation.

    Raises:
        ValueError: Fewer than two rows, or values that are not finite.
    """
    if len(features) < 2:
        raise ValueError(f"leave-one-out needs at least 2 rows, got {len(features)}")
    index = _flat_index(features)
    k = clamped_k(k, available=index.ntotal - 1)
    similarities, rows = index.search(normalized(features), k + 1)
    own = rows == np.arange(len(rows))[:, None]
    # Among many equal rows a row may not find itself; then the least similar one goes.
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


def vote(
    neighbors: Neighbors,
    classes: Int64[np.ndarray, " train"],
    *,
    classes_number: int,
    temperature: float = TEMPERATURE,
) -> Float64[np.ndarray, "queries classes"]:
    """Score of each class: the summed weights of the neighbours that carry it.

    Weights are divided by that of similarity 1 so that no temperature overflows; the ranking is
    the same.

    Args:
        neighbors: What ``nearest`` or ``nearest_others`` found.
        classes: Class of each training row, from 0 to ``classes_number - 1``.
        classes_number: Number of classes.
        temperature: Lower listens more to the very nearest.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    queries = len(neighbors.rows)
    weights = np.exp((neighbors.similarities.astype(np.float64) - 1) / temperature)
    cells = np.arange(queries)[:, None] * classes_number + classes[neighbors.rows]
    scores = np.bincount(cells.ravel(), weights.ravel(), minlength=queries * classes_number)
    # bincount of nothing counts in integers.
    return scores.astype(np.float64, copy=False).reshape(queries, classes_number)


def accuracies(
    neighbors: Neighbors,
    train_labels: Shaped[np.ndarray, " train"],
    query_labels: Shaped[np.ndarray, " queries"],
    *,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, Accuracy]:
    """Top-1 and top-5 for each k, all from one search.

    Classes are ranked by score; among equal scores the smaller label comes first, as in the
    original, where that decides only when fewer than five classes got a vote. A query whose label
    no training row carries counts as wrong.

    Args:
        neighbors: At least ``max(ks)`` neighbours of each query, or all that there are.
        train_labels: Label of each training row, any sortable type.
        query_labels: Label of each query.
        ks: Numbers of neighbours to report; each is clamped to the neighbours given.
        temperature: Of the vote.

    Returns:
        Accuracies in percent by k, under the k that was asked for.

    Source: https://arxiv.org/abs/2104.14294, appendix F.1 (k-NN classification).
    """
    if not len(query_labels):
        raise ValueError("accuracies need at least one query, got none")
    if min(ks) < 1:
        raise ValueError(f"ks must be at least 1, got {tuple(ks)}")
    names, classes = np.unique(train_labels, return_inverse=True)
    wanted = np.searchsorted(names, query_labels).clip(max=len(names) - 1)
    known = names[wanted] == query_labels
    correct = {k: np.zeros(2, dtype=np.int64) for k in ks}
    chunk = max(1, SCORES_PER_CHUNK // len(names))
    for start in range(0, len(query_labels), chunk):
        part = slice(start, start + chunk)
        near = Neighbors(neighbors.similarities[part], neighbors.rows[part])
        for k, ranks in _ranks(near, classes, wanted[part], len(names), ks, temperature).items():
            hits = [known[part] & (ranks < 1), known[part] & (ranks < min(TOP, k))]
            correct[k] += np.count_nonzero(hits, axis=1)
    total = len(query_labels)
    return {k: Accuracy(*(float(100 * hits / total) for hits in correct[k])) for k in ks}


class KNNClassifier:
    """Weighted k-NN with scikit-learn's manners: fit, predict, predict_proba, score.

    Attributes:
        k: Neighbours that vote.
        temperature: Of the vote; lower listens more to the very nearest.
        classes_: Sorted labels, after ``fit``.
    """

    def __init__(self, k: int = 20, temperature: float = TEMPERATURE) -> None:
        self.k = k
        self.temperature = temperature

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name, as scikit-learn's tools expect."""
        return {"k": self.k, "temperature": self.temperature}

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
        self, features: Shaped[np.ndarray, "train dim"], labels: Shaped[np.ndarray, " train"]
    ) -> "KNNClassifier":
        """Remember the training features and their labels.

        Raises:
            ValueError: No row, or values that are not finite.
        """
        self.classes_, self._classes = np.unique(labels, return_inverse=True)
        self._index = _flat_index(features)
        self.n_features_in_ = int(self._index.d)
        return self

    def predict_proba(
        self, features: Shaped[np.ndarray, "queries dim"]
    ) -> Float64[np.ndarray, "queries classes"]:
        """Share of the vote that each of ``classes_`` gets; rows sum to 1."""
        if not hasattr(self, "_index"):
            raise ValueError("call fit(features, labels) before predicting")
        queries = _checked_queries(features, dim=self._index.d)
        k = clamped_k(self.k, available=self._index.ntotal)
        near = Neighbors(*self._index.search(queries, k))
        # Relative to each query's best neighbour, so that a far query cannot underflow to 0/0.
        near = Neighbors(near.similarities - near.similarities[:, :1] + 1, near.rows)
        scores = vote(
            near,
            self._classes,
            classes_number=len(self.classes_),
            temperature=self.temperature,
        )
        scores /= scores.sum(axis=1, keepdims=True)
        return scores

    def predict(
        self, features: Shaped[np.ndarray, "queries dim"]
    ) -> Shaped[np.ndarray, " queries"]:
        """The label with the largest share of the vote."""
        probs = self.predict_proba(features)
        winners: np.ndarray = self.classes_[probs.argmax(axis=1)]
        return winners

    def score(
        self, features: Shaped[np.ndarray, "queries dim"], labels: Shaped[np.ndarray, " queries"]
    ) -> float:
        """Share of right predictions, from 0 to 1."""
        return float(np.mean(self.predict(features) == labels))


def _flat_index(features: Shaped[np.ndarray, "train dim"]) -> Any:
    """A FAISS index that compares with every row: exact, as reported numbers must be."""
    import faiss

    if not len(features):
        raise ValueError("k-NN needs at least one training row, got none")
    index = faiss.IndexFlatIP(features.shape[1])
    index.add(normalized(features))
    return index


def _checked_queries(
    features: Shaped[np.ndarray, "queries dim"], *, dim: int
) -> Float32[np.ndarray, "queries dim"]:
    if features.shape[1] != dim:
        raise ValueError(f"queries must have the training width {dim}, got shape {features.shape}")
    return normalized(features)


def _ranks(
    neighbors: Neighbors,
    classes: Int64[np.ndarray, " train"],
    wanted: Int64[np.ndarray, " queries"],
    classes_number: int,
    ks: Sequence[int],
    temperature: float,
) -> dict[int, Int64[np.ndarray, " queries"]]:
    """Rank from 0 of the wanted class for each k; votes of a smaller k are reused by a larger."""
    scores = np.zeros((len(wanted), classes_number))
    earlier = np.arange(classes_number) < wanted[:, None]
    ranks, counted = {}, 0
    for k in sorted(ks):
        ring = Neighbors(*(part[:, counted:k] for part in neighbors))
        scores += vote(ring, classes, classes_number=classes_number, temperature=temperature)
        counted = min(k, neighbors.rows.shape[1])
        own = np.take_along_axis(scores, wanted[:, None], axis=1)
        ranks[k] = np.count_nonzero((scores > own) | ((scores == own) & earlier), axis=1)
    return ranks
