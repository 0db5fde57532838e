"""Measures of ranked images, all made of the ranks that relevant images take.

A rank is the number of images above, from 0. Of equal scores the relevant image comes last, so
that a network which gives every image the same feature cannot win.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Integer

EXACT_TERMS = 1_000  # from here on the approximation of a harmonic number is exact to 1e-7

Ranks = Int64[np.ndarray, " _relevant"]
"""Ranks of the relevant images that a query has, in ascending order."""

Block = tuple[Float[np.ndarray, "queries references"], Bool[np.ndarray, "queries references"]]
"""Scores of some queries with all references, and True where a pair is relevant."""


def relevant_ranks(
    scores: Float[np.ndarray, " references"],
    relevant: Integer[np.ndarray, " relevant"] | Sequence[int],
    *,
    junk: Integer[np.ndarray, " junk"] | Sequence[int] = (),
) -> Ranks:
    """Ranks that the relevant references of one query take.

    Args:
        scores: Similarity of the query to each reference.
        relevant: Positions of the references that should be found.
        junk: Positions of references that count neither for nor against; those that are relevant
            too are junk.

    Source: https://arxiv.org/abs/1803.11285, evaluation protocol (junk).
    """
    kind = np.zeros(len(scores), np.int8)
    kind[np.asarray(relevant, np.int64)] = 1
    kind[np.asarray(junk, np.int64)] = -1
    found = np.sort(scores[kind == 1])[::-1]
    others = np.sort(scores[kind == 0])
    above = len(others) - np.searchsorted(others, found, side="left")
    return above + np.arange(len(found))


def pair_ranks(blocks: Callable[[], Iterable[Block]]) -> Ranks:
    """Ranks of the relevant pairs when the pairs of all queries form one ranking.

    Args:
        blocks: Function that gives the scores of all queries in blocks, the same at each of the two
            calls, so that no more than a block is in memory.
    """
    found = np.sort(np.concatenate([scores[relevant] for scores, relevant in blocks()]))
    below = np.zeros(len(found) + 1, np.int64)
    for scores, relevant in blocks():
        # The number of relevant pairs that each other pair is at least as high as.
        passed = np.searchsorted(found, scores[~relevant], side="right")
        below += np.bincount(passed, minlength=len(below))
    above = np.cumsum(below[::-1])[:-1]  # from the best relevant pair down
    return above + np.arange(len(found))


def average_precision(ranks: Ranks) -> float:
    """Mean over the relevant images of the precision at each: AP of a query, or μAP of all pairs.

    Raises:
        ValueError: There is no relevant image.
    """
    _check_some(ranks)
    return float(np.mean(_hits(ranks) / (ranks + 1)))


def trapezoid_average_precision(ranks: Ranks) -> float:
    """Area under the precision-recall curve by trapezoids, as Copydays and Oxford have it.

    A single relevant image at rank r > 0 is worth 1 / (2r + 2), half of its average precision.

    Raises:
        ValueError: There is no relevant image.

    Source: https://arxiv.org/abs/1803.11285, whose published evaluation integrates this way.
    """
    _check_some(ranks)
    hits = _hits(ranks)
    before = np.where(ranks == 0, 1.0, (hits - 1) / np.maximum(ranks, 1))
    return float(np.mean((before + hits / (ranks + 1)) / 2))


def recall_at_precision(ranks: Ranks, precision: float = 0.9) -> float:
    """Largest share of the relevant pairs that a threshold finds with at least this precision.

    Raises:
        ValueError: There is no relevant pair.

    Source: https://arxiv.org/abs/2202.10261, metrics on DISC2021 (recall at precision 90).
    """
    _check_some(ranks)
    good = np.flatnonzero(_hits(ranks) >= precision * (ranks + 1))
    return float((good[-1] + 1) / len(ranks)) if len(good) else 0.0


def precision_at(ranks: Ranks, k: int) -> float:
    """Precision of the first ``k``, or up to the last relevant image where that is earlier.

    Raises:
        ValueError: There is no relevant image.

    Source: https://arxiv.org/abs/1803.11285, whose published evaluation shortens k this way.
    """
    _check_some(ranks)
    depth = min(k, int(ranks[-1]) + 1)
    return float(np.count_nonzero(ranks < depth) / depth)


def is_found(ranks: Ranks, k: int) -> bool:
    """True if a relevant image is among the first ``k``; R@k and accuracy@1 are its mean."""
    return bool(len(ranks) and ranks[0] < k)


def percents(
    measure: Callable[[Ranks], float], ranks: Iterable[Ranks]
) -> Float64[np.ndarray, " queries"]:
    """A measure of each query that has a relevant image, in percent."""
    return np.array([100 * float(measure(one)) for one in ranks if len(one)])


def chance_average_precision(relevant: int, references: int) -> float:
    """Expected average precision of a random order."""
    others = (relevant - 1) / max(references - 1, 1)
    return others + (1 - others) * _harmonic(references) / references


def chance_found(relevant: int, references: int, k: int) -> float:
    """Probability that a random order has a relevant image among the first ``k``."""
    missed = math.comb(references - relevant, min(k, references))
    return 1 - missed / math.comb(references, min(k, references))


def _harmonic(count: int) -> float:
    """1 + 1/2 + 1/3 + ... of so many terms."""
    if count < EXACT_TERMS:
        return math.fsum(1 / term for term in range(1, count + 1))
    return math.log(count) + float(np.euler_gamma) + 1 / (2 * count)


def _hits(ranks: Ranks) -> Int64[np.ndarray, " _relevant"]:
    return np.arange(1, len(ranks) + 1)


def _check_some(ranks: Ranks) -> None:
    if not len(ranks):
        raise ValueError("ranks must hold the rank of at least one relevant image, got none")
