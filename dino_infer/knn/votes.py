"""The vote of neighbours: one rule for the library, the demo and the server.

Each neighbour votes for its class with weight ``exp(similarity / temperature)``. Classes rank by
the sum of their votes; of equal sums that of the nearer neighbour is first, which is the more
similar one and, of equally similar ones, that of the lower row. A class that got no vote has no
rank: it is no hit, however many ranks count.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from dino_infer.knn.neighbors import Neighbors

TEMPERATURE = 0.07
SCORES_PER_CHUNK = 2**22  # query x class scores held at a time: 32 MiB of float64
UNRANKED = np.iinfo(np.int64).max


class Ranking(NamedTuple):
    """Ranking of the labels of each query by the vote of one k."""

    winners: Shaped[np.ndarray, " queries"]
    """The label that ranks first."""
    ranks: Int64[np.ndarray, " queries"]
    """Rank from 0 of the query's own label; ``UNRANKED`` where it got no vote."""


class Vote(NamedTuple):
    """Vote of the neighbours of one query."""

    classes: list[tuple[Any, float]]
    """Each class that got a vote with its share, the first by the rule above; they sum to 1."""
    shares: list[float]
    """Share of the vote of each neighbour, in their order."""


class Tally:
    """Votes of some queries' neighbours, counted from the nearest neighbour on.

    Args:
        neighbors: At least one a query, the nearest first.
        classes: Class of each neighbour, from 0 to ``classes_number - 1``.
        classes_number: Number of classes.
        temperature: Lower listens more to the very nearest.

    Attributes:
        weights: Weight of each neighbour, relative to the nearest one of the query.
        scores: Score of each class: the summed weights of the neighbours counted so far.
    """

    def __init__(
        self,
        neighbors: Neighbors,
        classes: Int64[np.ndarray, "queries k"],
        *,
        classes_number: int,
        temperature: float,
    ) -> None:
        queries, k = classes.shape
        self.weights = vote_weights(neighbors, temperature=temperature)
        self.scores: Float64[np.ndarray, "queries classes"] = np.zeros((queries, classes_number))
        self._classes = classes
        self._queries = np.arange(queries)[:, None]
        # Place of the nearest neighbour of each class.
        self._nearest = np.full((queries, classes_number), k)
        np.minimum.at(self._nearest, (self._queries, classes), np.arange(k))
        self._counted = 0

    def count(self, k: int) -> None:
        """Add the votes up to the ``k``-th neighbour; a smaller ``k`` cannot come later."""
        ring = slice(self._counted, k)
        # One at a time, so that the sums do not depend on which other k were counted before.
        np.add.at(self.scores, (self._queries, self._classes[:, ring]), self.weights[:, ring])
        self._counted = max(self._counted, min(k, self._classes.shape[1]))

    def winners(self) -> Int64[np.ndarray, " queries"]:
        """The class that ranks first."""
        best = self.scores == self.scores.max(axis=1, keepdims=True)
        first: np.ndarray = np.where(best, self._nearest, UNRANKED).argmin(axis=1)
        return first

    def ranks(self, wanted: Int64[np.ndarray, " queries"]) -> Int64[np.ndarray, " queries"]:
        """Rank from 0 of one class of each query; ``UNRANKED`` where it got no vote."""
        own, place = (
            np.take_along_axis(values, wanted[:, None], axis=1)
            for values in (self.scores, self._nearest)
        )
        ahead = (self.scores > own) | ((self.scores == own) & (self._nearest < place))
        return np.where(place[:, 0] < self._counted, np.count_nonzero(ahead, axis=1), UNRANKED)


def vote(
    similarities: Sequence[float], labels: Sequence[Hashable], *, temperature: float = TEMPERATURE
) -> Vote:
    """The vote of the neighbours of one query.

    Args:
        similarities: Similarity of each neighbour, the nearest first.
        labels: Class of each neighbour.
        temperature: Lower listens more to the very nearest.

    Raises:
        ValueError: ``temperature`` is not above 0.
    """
    if not labels:
        return Vote([], [])
    # With their types: 1 and true are equal keys.
    keys = [(type(label), label) for label in labels]
    names = list(dict.fromkeys(keys))
    numbers = {key: number for number, key in enumerate(names)}
    classes = np.array([[numbers[key] for key in keys]])
    near = Neighbors(np.array([similarities], dtype=np.float32), np.arange(len(keys))[None])
    tally = Tally(near, classes, classes_number=len(names), temperature=temperature)
    tally.count(len(keys))
    total = tally.weights.sum()
    scores = tally.scores[0] / total
    # Names are in the order of their nearest neighbours, and the sort leaves equals as they are.
    order = np.argsort(-scores, kind="stable").tolist()
    ranked = [(names[place][1], float(scores[place])) for place in order]
    return Vote(ranked, (tally.weights[0] / total).tolist())


def vote_weights(
    neighbors: Neighbors, *, temperature: float = TEMPERATURE
) -> Float64[np.ndarray, "queries k"]:
    """Weight of each neighbour's vote, relative to the nearest one of the query.

    The ranking is that of ``exp(similarity / temperature)``, but no temperature overflows, nor
    does it take the votes of a query that is far from everything to zero.

    Args:
        neighbors: Most similar first.
        temperature: Lower listens more to the very nearest.

    Raises:
        ValueError: ``temperature`` is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    similarities = neighbors.similarities.astype(np.float64)
    similarities -= similarities[:, :1].copy()
    return np.exp(similarities / temperature)


def rankings(
    neighbors: Neighbors,
    train_labels: Shaped[np.ndarray, " train"],
    query_labels: Shaped[np.ndarray, " queries"],
    *,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, Ranking]:
    """Rank the labels of each query by the vote of each k, all from one search.

    The rule is that of this module; the original, which has 1,000 classes, gives the same ranks
    but where votes are equal.

    Args:
        neighbors: At least ``max(ks)`` neighbours of each query, or all that there are.
        train_labels: Label of each training row, any sortable type.
        query_labels: Label of each query.
        ks: Numbers of neighbours that vote; each is clamped to the neighbours given.
        temperature: Temperature of the vote.

    Returns:
        By k, under the k that was asked for.
    """
    if min(ks) < 1:
        raise ValueError(f"ks must be at least 1, got {tuple(ks)}")
    names, classes = np.unique(train_labels, return_inverse=True)
    wanted = np.searchsorted(names, query_labels).clip(max=len(names) - 1)
    known = names[wanted] == query_labels
    total = len(query_labels)
    found = {k: Ranking(np.empty(total, names.dtype), np.full(total, UNRANKED)) for k in ks}
    chunk = max(1, SCORES_PER_CHUNK // len(names))
    for start in range(0, total, chunk):
        part = slice(start, start + chunk)
        near = Neighbors(neighbors.similarities[part], neighbors.rows[part])
        tally = Tally(near, classes[near.rows], classes_number=len(names), temperature=temperature)
        for k in sorted(ks):
            tally.count(k)
            found[k].winners[part] = names[tally.winners()]
            found[k].ranks[part] = np.where(known[part], tally.ranks(wanted[part]), UNRANKED)
    return found
