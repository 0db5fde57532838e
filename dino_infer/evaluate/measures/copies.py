"""Measures of copy detection: ranks of the originals for each query, and of all pairs at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

from dino_infer.evaluate.measures.descriptors import (
    similarity_bias,
    similarity_blocks,
    unit_rows,
)
from dino_infer.evaluate.measures.ranking import (
    Block,
    Ranks,
    average_precision,
    chance_average_precision,
    chance_found,
    is_found,
    pair_ranks,
    percents,
    recall_at_precision,
    relevant_ranks,
)

Vectors = Float[np.ndarray, "_rows dim"]
Originals = Sequence[Sequence[int]]


@dataclass(frozen=True)
class CopyRanks:
    """Places of the originals in the ranking of each query, and of all pairs in one ranking."""

    of_queries: Sequence[Ranks]
    """Ranks of each query's originals; empty for a distractor query."""
    pairs: Ranks
    """Ranks of the true pairs among the pairs of all queries with all references."""
    nearest: Int64[np.ndarray, " queries"]
    """Position of the reference with the highest score; of equal ones a wrong one."""
    margins: Float[np.ndarray, " queries"]
    """Score of the best original less that of the best other image; NaN for a distractor query."""


def copy_ranks(
    queries: Vectors,
    references: Vectors,
    originals: Originals,
    *,
    background: Vectors | None = None,
) -> CopyRanks:
    """Rank the references for each query by cosine.

    Args:
        queries: Features of altered copies.
        references: Features of the database.
        originals: Positions of each query's originals in ``references``; none for a distractor.
        background: Features of images that are neither; the mean similarity of a query to its three
            nearest is then taken from its scores, which changes ``pairs`` alone.
    """
    queries, references = unit_rows(queries), unit_rows(references)
    bias = np.zeros(len(queries), np.float32)
    if background is not None:
        bias = similarity_bias(queries, unit_rows(background))

    def blocks() -> Iterator[Block]:
        for rows, scores in similarity_blocks(queries, references):
            relevant = np.zeros(scores.shape, np.bool_)
            for i, found in enumerate(originals[rows]):
                relevant[i, list(found)] = True
            yield scores - bias[rows, None], relevant

    ranks, nearest, margins = [], [], []
    for scores, relevant in blocks():
        for one, is_original in zip(scores, relevant, strict=True):
            ranks.append(relevant_ranks(one, np.flatnonzero(is_original)))
            best, other = np.max(one, where=is_original, initial=-np.inf), -np.inf
            if not is_original.all():
                other = one[~is_original].max()
            margins.append(float(best - other) if is_original.any() else np.nan)
            tied = np.flatnonzero(one == one.max())
            nearest.append(tied[np.argmin(is_original[tied])])
    return CopyRanks(
        of_queries=ranks,
        pairs=pair_ranks(blocks),
        nearest=np.array(nearest, np.int64),
        margins=np.array(margins),
    )


def copy_columns(ranks: CopyRanks) -> dict[str, Float64[np.ndarray, " queries"]]:
    """Average precision and accuracy@1 of each query that has an original, in percent."""
    return {
        "map_percent": percents(average_precision, ranks.of_queries),
        "accuracy_at_1_percent": percents(lambda one: is_found(one, 1), ranks.of_queries),
    }


def pair_values(ranks: CopyRanks) -> dict[str, float]:
    """Measures in percent of one ranking of all pairs: μAP, and recall at precision 90 %."""
    return {
        "uap_percent": 100 * average_precision(ranks.pairs),
        "recall_at_p90_percent": 100 * recall_at_precision(ranks.pairs),
    }


def chance_values(originals: Originals, references: int) -> dict[str, float]:
    """Expected measures in percent of a random order.

    Args:
        originals: Positions of each query's originals; none for a distractor.
        references: Images of the database.
    """
    counts = [len(own) for own in originals if own]
    precision = [chance_average_precision(count, references) for count in counts]
    first = [chance_found(count, references, 1) for count in counts]
    pairs = chance_average_precision(sum(counts), references * len(originals))
    return {
        "map_percent": 100 * float(np.mean(precision)),
        "uap_percent": 100 * pairs,
        "accuracy_at_1_percent": 100 * float(np.mean(first)),
    }
