"""Measures of rankings, against trec_eval and against loops that follow their definitions."""

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings, strategies as st

from dino_infer.evaluate.measures.ranking import (
    average_precision,
    chance_average_precision,
    chance_found,
    is_found,
    pair_ranks,
    percents,
    precision_at,
    recall_at_precision,
    relevant_ranks,
    trapezoid_average_precision,
)

ROUNDING = 1e-9
RELEVANT, JUNK, OTHER = 1, -1, 0
# Few levels, so that ties are everywhere.
LISTS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([RELEVANT, JUNK, OTHER])), min_size=1, max_size=25
)
WITH_RELEVANT = LISTS.filter(lambda items: any(kind == RELEVANT for _, kind in items))


def ranks_of(items):
    scores = np.array([score for score, _ in items], np.float32)
    kinds = np.array([kind for _, kind in items])
    relevant, junk = np.flatnonzero(kinds == RELEVANT), np.flatnonzero(kinds == JUNK)
    return relevant_ranks(scores, relevant, junk=junk)


def worst_order(items):
    """The ranking without junk, of equal scores the relevant last, as True and False."""
    kept = [(-score, kind == RELEVANT) for score, kind in items if kind != JUNK]
    return [is_relevant for _, is_relevant in sorted(kept)]


@given(WITH_RELEVANT)
def test_ranks_are_places_in_the_worst_order_of_ties_without_junk(items):
    assert ranks_of(items).tolist() == np.flatnonzero(worst_order(items)).tolist()


@settings(deadline=None)
@given(st.lists(WITH_RELEVANT, min_size=1, max_size=5))
def test_mean_average_precision_is_that_of_trec_eval(queries):
    truth, run = {}, {}
    for number, items in enumerate(queries):
        kept = [(score, kind) for score, kind in items if kind != JUNK]
        # trec_eval orders equal scores by falling names: relevant ones have the smallest.
        names = [f"{'a' if kind else 'b'}{i:03}" for i, (_, kind) in enumerate(kept)]
        truth[str(number)] = {name: kind for name, (_, kind) in zip(names, kept, strict=True)}
        run[str(number)] = {name: float(s) for name, (s, _) in zip(names, kept, strict=True)}
    theirs = pytrec_eval.RelevanceEvaluator(truth, {"map"}).evaluate(run)
    ours = percents(average_precision, [ranks_of(items) for items in queries]).mean()
    assert ours == pytest.approx(100 * np.mean([one["map"] for one in theirs.values()]))


@given(WITH_RELEVANT)
def test_average_precision_by_trapezoids_is_the_area_under_a_drawn_curve(items):
    order = worst_order(items)
    area, found = 0.0, 0
    for place, is_relevant in enumerate(order):
        if is_relevant:
            left = found / place if place else 1.0
            right = (found + 1) / (place + 1)
            area += (left + right) / 2 / sum(order)
            found += 1
    assert trapezoid_average_precision(ranks_of(items)) == pytest.approx(area, abs=ROUNDING)


@given(WITH_RELEVANT, st.integers(1, 12))
def test_precision_at_k_stops_at_the_last_relevant_image(items, k):
    order = worst_order(items)
    last = max(place for place, is_relevant in enumerate(order) if is_relevant) + 1
    depth = min(k, last)
    assert precision_at(ranks_of(items), k) == pytest.approx(sum(order[:depth]) / depth)


@given(WITH_RELEVANT, st.integers(1, 12))
def test_an_image_is_found_when_one_of_the_first_is_relevant(items, k):
    assert is_found(ranks_of(items), k) == any(worst_order(items)[:k])


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_all_pairs_form_one_ranking(queries, references, data):
    size = queries * references
    scores = np.array(data.draw(st.lists(st.integers(0, 4), min_size=size, max_size=size)))
    relevant = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    scores, relevant = scores.reshape(queries, references), relevant.reshape(queries, references)

    def blocks():
        return ((scores[i : i + 1], relevant[i : i + 1]) for i in range(queries))

    pairs = sorted(zip(-scores.ravel(), relevant.ravel(), strict=True))
    order = [is_relevant for _, is_relevant in pairs]
    ranks = pair_ranks(blocks)
    assert ranks.tolist() == np.flatnonzero(order).tolist()
    if not any(order):
        return
    precisions = [sum(order[: i + 1]) / (i + 1) for i in range(size)]
    recalls = [sum(order[: i + 1]) / sum(order) for i in range(size)]
    steps = zip(precisions, np.diff([0, *recalls]), strict=True)
    assert average_precision(ranks) == pytest.approx(sum(p * r for p, r in steps))
    good = [r for p, r in zip(precisions, recalls, strict=True) if p >= 0.9]
    assert recall_at_precision(ranks) == pytest.approx(max(good, default=0))


def test_a_network_that_gives_all_images_one_feature_is_last():
    ranks = relevant_ranks(np.ones(10, np.float32), [0])
    assert ranks.tolist() == [9]
    assert average_precision(ranks) == 0.1


@pytest.mark.parametrize(("relevant", "references"), [(1, 1), (1, 7), (3, 7), (7, 7), (2, 1500)])
def test_chance_is_the_mean_over_random_orders(relevant, references):
    rng = np.random.default_rng(0)
    ranks = [
        np.sort(rng.permutation(references)[:relevant])
        for _ in range(20 if references > 7 else 4000)
    ]
    expected = np.mean([average_precision(one) for one in ranks])
    tolerance = 0.02 if references < 8 else 0.01
    assert chance_average_precision(relevant, references) == pytest.approx(expected, abs=tolerance)
    found = np.mean([is_found(one, 3) for one in ranks])
    assert chance_found(relevant, references, 3) == pytest.approx(found, abs=tolerance)


def test_the_approximation_of_chance_joins_the_exact_sum():
    below, above = (chance_average_precision(1, count) * count for count in (999, 1000))
    assert above - below == pytest.approx(1 / 1000, rel=1e-3)


@pytest.mark.parametrize(
    "measure",
    [
        average_precision,
        trapezoid_average_precision,
        recall_at_precision,
        lambda r: precision_at(r, 1),
    ],
)
def test_measures_of_nothing_are_refused(measure):
    with pytest.raises(ValueError, match="at least one relevant image, got none"):
        measure(np.array([], np.int64))
