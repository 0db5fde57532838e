"""k-NN against the original's numbers, a slow oracle, and scikit-learn's manners."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_infer import knn

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "knn.npz")
EXPECTED = {int(k): v for k, v in json.loads(str(REFERENCE["meta"]))["top1_top5_by_k"].items()}


def toy(rows: int, *, classes: int = 3, dim: int = 8, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    centers = rng.normal(size=(classes, dim))
    return (centers[labels] + 0.3 * rng.normal(size=(rows, dim))).astype(np.float32), labels


def test_accuracies_equal_the_original_for_every_k_from_one_search():
    near = knn.nearest(REFERENCE["train_features"], REFERENCE["test_features"], k=max(EXPECTED))
    got = knn.accuracies(
        near, REFERENCE["train_labels"], REFERENCE["test_labels"], ks=tuple(EXPECTED)
    )
    assert {k: list(accuracy) for k, accuracy in got.items()} == EXPECTED


def test_the_order_of_ks_does_not_matter():
    near = knn.nearest(REFERENCE["train_features"], REFERENCE["test_features"], k=20)
    labels = REFERENCE["train_labels"], REFERENCE["test_labels"]
    assert knn.accuracies(near, *labels, ks=(20, 5, 10)) == knn.accuracies(
        near, *labels, ks=(5, 10, 20)
    )


def test_small_chunks_change_nothing(monkeypatch):
    near = knn.nearest(REFERENCE["train_features"], REFERENCE["test_features"], k=5)
    monkeypatch.setattr(knn, "SCORES_PER_CHUNK", 40)
    got = knn.accuracies(near, REFERENCE["train_labels"], REFERENCE["test_labels"], ks=(5,))
    assert list(got[5]) == EXPECTED[5]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 12), classes=st.integers(1, 30))
def test_the_vote_equals_a_loop_over_queries_and_neighbors(seed, k, classes):
    train, labels = toy(25, classes=classes, seed=seed)
    queries, _ = toy(6, classes=classes, seed=seed + 1)
    got = knn.KNNClassifier(k=k, temperature=0.1).fit(train, labels).predict_proba(queries)

    unit = [row / np.linalg.norm(row) for row in train.astype(float)]
    for query, probs in zip(queries.astype(float), got, strict=True):
        similarities = [unit_row @ query / np.linalg.norm(query) for unit_row in unit]
        order = sorted(range(len(train)), key=lambda row: -similarities[row])[:k]
        votes = {name: 0.0 for name in np.unique(labels)}
        for row in order:
            votes[labels[row]] += np.exp(similarities[row] / 0.1)
        expected = np.array(list(votes.values())) / sum(votes.values())
        np.testing.assert_allclose(probs, expected, atol=1e-4)


def test_leave_one_out_never_finds_the_row_itself():
    features, labels = toy(30)
    near = knn.nearest_others(features, k=5)
    assert not (near.rows == np.arange(30)[:, None]).any()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarities = unit @ unit.T
    np.fill_diagonal(similarities, -2)
    np.testing.assert_array_equal(near.rows, np.argsort(-similarities, axis=1)[:, :5])
    assert knn.accuracies(near, labels, labels, ks=(5,))[5].top1_percent > 90


def test_leave_one_out_survives_many_equal_rows():
    near = knn.nearest_others(np.ones((40, 4), dtype=np.float32), k=3)
    assert near.rows.shape == (40, 3)
    assert not (near.rows == np.arange(40)[:, None]).any()


def test_a_k_beyond_the_training_rows_is_clamped_with_a_warning(caplog):
    train, labels = toy(7)
    with caplog.at_level(logging.WARNING):
        near = knn.nearest(train, train, k=20)
    assert near.rows.shape == (7, 7)
    assert caplog.messages == ["k = 20 is more than the 7 training rows; using all"]
    got = knn.accuracies(near, labels, labels, ks=(7, 20))
    assert got[20] == got[7]


def test_any_labels_and_more_than_a_thousand_classes_work():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1500, 16))
    names = np.array([f"class {i:04}" for i in range(1500)])
    classifier = knn.KNNClassifier(k=1).fit(features, names)
    assert classifier.score(features, names) == 1.0


def test_a_query_class_without_training_rows_counts_as_wrong():
    train = np.eye(3, dtype=np.float32)
    near = knn.nearest(train, train, k=1)
    got = knn.accuracies(near, np.array(["a", "b", "c"]), np.array(["a", "b", "zebra"]), ks=(1,))
    assert got[1].top1_percent == pytest.approx(200 / 3)


@pytest.mark.parametrize("temperature", [1e-4, 0.07, 100.0])
def test_probabilities_are_finite_and_sum_to_one_at_any_temperature(temperature):
    train, labels = toy(50)
    classifier = knn.KNNClassifier(k=9, temperature=temperature).fit(train, labels)
    probs = classifier.predict_proba(-train)
    np.testing.assert_allclose(probs.sum(axis=1), 1)


def test_rows_that_are_not_finite_are_named():
    features, labels = toy(10)
    features[4, 2] = np.nan
    with pytest.raises(ValueError, match="row 4 holds NaN"):
        knn.KNNClassifier().fit(features, labels)


def test_wrong_arguments_are_named():
    features, labels = toy(10)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        knn.nearest(features, features, k=0)
    with pytest.raises(ValueError, match="ks must be at least 1"):
        knn.accuracies(knn.nearest(features, features, k=3), labels, labels, ks=(0, 3))
    with pytest.raises(ValueError, match=r"training width 8, got shape \(10, 4\)"):
        knn.KNNClassifier().fit(features, labels).predict(features[:, :4])
    with pytest.raises(ValueError, match="at least one training row"):
        knn.nearest(features[:0], features, k=3)
    with pytest.raises(ValueError, match="at least 2 rows"):
        knn.nearest_others(features[:1], k=3)
    with pytest.raises(ValueError, match="call fit"):
        knn.KNNClassifier().predict(features)


def test_scikit_learn_can_clone_and_search_over_the_classifier():
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    features, labels = toy(60)
    copy = clone(knn.KNNClassifier(k=3, temperature=0.2))
    assert copy.get_params() == {"k": 3, "temperature": 0.2}
    search = GridSearchCV(knn.KNNClassifier(), {"k": [1, 5]}, cv=3).fit(features, labels)
    assert search.best_score_ > 0.9
    with pytest.raises(ValueError, match="no parameter 'n'"):
        copy.set_params(n=3)
