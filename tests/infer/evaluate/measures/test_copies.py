"""Measures of copy detection, against loops over pairs."""

import numpy as np
import pytest

from dino_infer.evaluate.measures.copies import copy_columns, copy_ranks, pair_values

DIM = 6


@pytest.fixture
def features():
    """References and noisy copies of half of them; the last query is a copy of none."""
    rng = np.random.default_rng(0)
    references = rng.normal(size=(30, DIM)).astype(np.float32)
    queries = references[:15] + rng.normal(size=(15, DIM)).astype(np.float32)
    strange = rng.normal(size=(1, DIM)).astype(np.float32)
    originals = [[i] for i in range(15)] + [[]]
    originals[3] = [3, 20]
    return np.concatenate([queries, strange]), references, originals


def cosines(queries, references):
    return [
        [float(q @ r / np.linalg.norm(q) / np.linalg.norm(r)) for r in references] for q in queries
    ]


def test_every_measure_is_its_definition(features):
    queries, references, originals = features
    scores = cosines(queries, references)
    precisions, firsts, pairs = [], [], []
    for one, own in zip(scores, originals, strict=True):
        order = np.argsort(one)[::-1].tolist()
        pairs += [(one[place], place in own) for place in order]
        if own:
            places = sorted(order.index(place) + 1 for place in own)
            precisions.append(np.mean([(i + 1) / place for i, place in enumerate(places)]))
            firsts.append(order[0] in own)
    ranks = copy_ranks(queries, references, originals)
    columns, values = copy_columns(ranks), pair_values(ranks)
    assert columns["map_percent"] == pytest.approx(100 * np.array(precisions))
    assert columns["accuracy_at_1_percent"] == pytest.approx(100 * np.array(firsts))
    hits, micro, best = 0, 0.0, 0.0
    for place, (_, is_true) in enumerate(sorted(pairs, reverse=True), start=1):
        hits += is_true
        micro += is_true * hits / place / 16
        best = hits / 16 if hits / place >= 0.9 else best
    assert values["uap_percent"] == pytest.approx(100 * micro)
    assert values["recall_at_p90_percent"] == pytest.approx(100 * best)


def test_a_background_moves_pairs_between_queries_and_no_image_within_one(features):
    queries, references, originals = features
    background = np.random.default_rng(1).normal(size=(50, DIM)).astype(np.float32)
    plain = copy_ranks(queries, references, originals)
    normalised = copy_ranks(queries, references, originals, background=background)
    for one, other in zip(plain.of_queries, normalised.of_queries, strict=True):
        assert one.tolist() == other.tolist()
    scores = np.array(cosines(queries, references))
    bias = np.sort(np.array(cosines(queries, background)), axis=1)[:, -3:].mean(1)
    pairs = [(-(scores[i, j] - bias[i]), j in originals[i]) for i in range(16) for j in range(30)]
    places = [place for place, (_, is_true) in enumerate(sorted(pairs)) if is_true]
    assert normalised.pairs.tolist() == places != plain.pairs.tolist()


def test_nearest_and_margin_tell_what_a_query_is_taken_for(features):
    queries, references, originals = features
    found = copy_ranks(queries, references, originals)
    scores = np.array(cosines(queries, references))
    assert found.nearest.tolist() == scores.argmax(1).tolist()
    others = np.delete(scores[3], [3, 20])
    assert found.margins[3] == pytest.approx(scores[3, [3, 20]].max() - others.max(), abs=1e-6)
    assert np.isnan(found.margins[-1])


def test_of_two_equal_images_the_wrong_one_is_the_nearest():
    found = copy_ranks(np.eye(2, dtype=np.float32)[:1], np.ones((2, 2), np.float32), [[0]])
    assert found.nearest.tolist() == [1]
    assert found.of_queries[0].tolist() == [1]
