"""What neighbours vote, and how that ranks the classes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, Shaped

from dino_infer.neighbors import Neighbors

TEMPERATURE = 0.07
SCORES_PER_CHUNK = 2**22  # query x class scores held at a time: 32 MiB of float64
UNRANKED = np.iinfo(np.int64).max


class Ranking(NamedTuple):
    """What the vote of one k says of each query."""

    winners: Shaped[np.ndarray, " queries"]
    """The label that ranks first."""
    ranks: Int64[np.ndarray, " queries"]
    """Rank from 0 of the query's own label; ``UNRANKED`` where no training row carries it."""


def vote_weights(
    neighbors: Neighbors, *, temperature: float = TEMPERATURE
) -> Float64[np.ndarray, "queries k"]:
    """How much each neighbour's vote counts, relative to the nearest one of the query.

    The ranking is that of ``exp(similarity / temperature)``, but no temperature overflows, nor
    does it take the votes of a query that is far from everything to zero.

    Args:
        neighbors: Most similar first.
        temperature: Lower listens more to the very nearest.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    similarities = neighbors.similarities.astype(np.float64)
    similarities -= similarities[:, :1].copy()
    return np.exp(similarities / temperature)


def votes(
    weights: Float64[np.ndarray, "queries k"],
    classes: Int64[np.ndarray, "queries k"],
    *,
    classes_number: int,
) -> Float64[np.ndarray, "queries classes"]:
    """Score of each class: the summed weights of the neighbours that carry it.

    Args:
        weights: Of each neighbour.
        classes: Of each neighbour, from 0 to ``classes_number - 1``.
        classes_number: Number of classes.
    """
    queries = len(classes)
    cells = np.arange(queries)[:, None] * classes_number + classes
    scores = np.bincount(cells.ravel(), weights.ravel(), minlength=queries * classes_number)
    # bincount of nothing counts in integers.
    return scores.astype(np.float64, copy=False).reshape(queries, classes_number)


def rankings(
    neighbors: Neighbors,
    train_labels: Shaped[np.ndarray, " train"],
    query_labels: Shaped[np.ndarray, " queries"],
    *,
    ks: Sequence[int],
    temperature: float = TEMPERATURE,
) -> dict[int, Ranking]:
    """What each k makes of each query, all from one search.

    Classes are ranked by score; among equal scores the smaller label comes first, as in the
    original, where that decides only when fewer than five classes got a vote.

    Args:
        neighbors: At least ``max(ks)`` neighbours of each query, or all that there are.
        train_labels: Label of each training row, any sortable type.
        query_labels: Label of each query.
        ks: Numbers of neighbours that vote; each is clamped to the neighbours given.
        temperature: Of the vote.

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
        voters = vote_weights(near, temperature=temperature), classes[near.rows]
        for k, winners, ranks in _ranked(*voters, wanted[part], len(names), ks):
            found[k].winners[part] = names[winners]
            found[k].ranks[part] = np.where(known[part], ranks, UNRANKED)
    return found


def _ranked(
    weights: Float64[np.ndarray, "queries k"],
    classes: Int64[np.ndarray, "queries k"],
    wanted: Int64[np.ndarray, " queries"],
    classes_number: int,
    ks: Sequence[int],
) -> Iterator[tuple[int, Int64[np.ndarray, " queries"], Int64[np.ndarray, " queries"]]]:
    """For each k the class that ranks first, and the rank from 0 of the wanted class."""
    scores = np.zeros((len(wanted), classes_number))
    earlier = np.arange(classes_number) < wanted[:, None]
    counted = 0
    for k in sorted(ks):
        # A larger k only adds the votes of the neighbours that a smaller one did not ask.
        ring = slice(counted, k)
        scores += votes(weights[:, ring], classes[:, ring], classes_number=classes_number)
        counted = k
        own = np.take_along_axis(scores, wanted[:, None], axis=1)
        ranks = np.count_nonzero((scores > own) | ((scores == own) & earlier), axis=1)
        yield k, scores.argmax(axis=1), ranks
