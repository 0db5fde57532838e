"""k-NN against the original's numbers, a slow oracle, and scikit-learn's manners."""

import importlib.util
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from dino_infer.errors import DinoError
from dino_infer.knn import classifier as knn, votes

REFERENCE = np.load(Path(__file__).parents[2] / "reference" / "knn.npz")
ROUNDING = 1e-6  # between two ways to sum 384 float32 products below 1
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
    monkeypatch.setattr(votes, "SCORES_PER_CHUNK", 40)
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


def test_a_fit_needs_a_label_for_each_row():
    features, labels = toy(10)
    with pytest.raises(ValueError, match="expected 10 labels, one a row, got 9"):
        knn.KNNClassifier().fit(features, labels[:9])


def test_tensors_are_searched_where_they_are_and_give_the_same_neighbours():
    train, queries = REFERENCE["train_features"], REFERENCE["test_features"]
    expected = knn.nearest(train, queries, k=10)
    for pair in (
        (torch.from_numpy(train), torch.from_numpy(queries)),
        (torch.from_numpy(train).double(), queries),
        (train, torch.from_numpy(queries).requires_grad_()),
    ):
        got = knn.nearest(*pair, k=10)
        np.testing.assert_allclose(got.similarities, expected.similarities, atol=ROUNDING)
        apart = -np.diff(expected.similarities, prepend=2, append=-2) > 2 * ROUNDING
        clear = apart[:, :-1] & apart[:, 1:]  # nothing before or after is as near
        clear[:, -1] = False  # the row behind the last one is not known
        assert clear.mean() > 0.8
        np.testing.assert_array_equal(got.rows[clear], expected.rows[clear])


def test_leave_one_out_of_a_tensor_equals_that_of_the_array():
    features, _ = toy(30)
    np.testing.assert_array_equal(
        knn.nearest_others(torch.from_numpy(features), k=4).rows,
        knn.nearest_others(features, k=4).rows,
    )


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("copies", [2, 60])
def test_the_nearest_of_equal_rows_is_the_same_for_every_k_and_beside_any_query(kind, copies):
    rng = np.random.default_rng(0)
    unique = rng.normal(size=(21, 48)).astype(np.float32)
    train = np.tile(unique, (copies, 1))
    expected = np.arange(21)[:, None] + 21 * np.arange(copies)
    for k in (1, 2, 30):
        near = knn.nearest(kind(train), kind(unique), k=k)
        most = min(k, copies)
        np.testing.assert_array_equal(near.rows[:, :most], expected[:, :most])
        alone = knn.nearest(kind(train), kind(unique[7:8]), k=k)
        np.testing.assert_array_equal(alone.rows[0], near.rows[7])
        others = knn.nearest_others(kind(train), k=k)
        np.testing.assert_array_equal(others.rows[:21, 0], np.arange(21) + 21)
        np.testing.assert_array_equal(others.rows[21:, 0], np.arange(21, len(train)) % 21)


def test_an_accuracy_does_not_depend_on_which_other_k_are_asked_for():
    features, _ = toy(90, classes=1)
    train = np.concatenate([features, features, features])
    labels = np.random.default_rng(0).integers(5, size=len(train))
    ks = (1, 2, 3, 5, 20, 100)
    together = knn.accuracies(knn.nearest(train, features, k=100), labels, labels[:90], ks=ks)
    assert together[1].top1_percent == 100
    for k in ks:
        near = knn.nearest(train, features, k=k)
        assert knn.accuracies(near, labels, labels[:90], ks=(k,))[k] == together[k]
        classifier = knn.KNNClassifier(k=k).fit(train, labels)
        assert 100 * classifier.score(features, labels[:90]) == together[k].top1_percent


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(kind, value):
    rows = np.ones((5, 3), dtype=np.float32)
    rows[3, 1] = value
    with pytest.raises(ValueError, match="row 3 holds NaN or infinity"):
        knn.nearest(kind(rows[:3]), kind(rows), k=1)


def test_a_device_that_is_not_there_is_named():
    features, labels = toy(10)
    with pytest.raises(DinoError, match="device 'cuda:99' cannot be used"):
        knn.nearest(features, features, k=1, device="cuda:99")
    with pytest.raises(DinoError, match="device 'cuda:99' cannot be used"):
        knn.KNNClassifier(device="cuda:99").fit(features, labels).predict(features)


@pytest.mark.gpu
def test_a_gpu_gives_the_neighbours_of_the_cpu():
    train, queries = REFERENCE["train_features"], REFERENCE["test_features"]
    expected = knn.nearest(train, queries, k=10)
    got = knn.nearest(train, queries, k=10, device="cuda")
    on_gpu = knn.nearest(torch.from_numpy(train).cuda(), torch.from_numpy(queries).cuda(), k=10)
    for near in (got, on_gpu):
        np.testing.assert_allclose(near.similarities, expected.similarities, atol=ROUNDING)
        assert (near.rows == expected.rows).mean() > 0.99


def test_a_query_far_from_everything_still_counts_at_a_low_temperature():
    train = np.array([[1, 0], [0, 1]], dtype=np.float32)
    queries = np.array([[-0.1, -1], [-1, -0.1]], dtype=np.float32)
    near = knn.nearest(train, queries, k=2)
    got = knn.accuracies(near, np.array([0, 1]), np.array([0, 1]), ks=(2,), temperature=1e-4)
    assert got[2].top1_percent == 100


def test_a_class_without_a_vote_is_no_hit():
    rng = np.random.default_rng(0)
    train, queries = rng.normal(size=(400, 16)), rng.normal(size=(300, 16))
    train_labels, labels = rng.integers(10, size=400), rng.integers(10, size=300)
    near = knn.nearest(train, queries, k=5)
    among_five = (train_labels[near.rows] == labels[:, None]).any(axis=1).mean()
    got = knn.accuracies(near, train_labels, labels, ks=(1, 5, 9))
    assert got[5].top5_percent == pytest.approx(100 * among_five)
    # More classes that nobody voted for change nothing.
    many = knn.accuracies(near, train_labels * 100, labels * 100, ks=(1, 5, 9))
    assert many == got
    probs = knn.KNNClassifier(k=5).fit(train, train_labels).predict_proba(queries)
    assert ((probs > 0).sum(axis=1) <= 5).all()


def test_a_fitted_classifier_can_be_pickled():
    features, labels = toy(30)
    classifier = knn.KNNClassifier(k=3).fit(features, labels)
    copy = pickle.loads(pickle.dumps(classifier))
    np.testing.assert_array_equal(copy.predict_proba(features), classifier.predict_proba(features))


def test_probabilities_equal_those_of_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    train, queries = REFERENCE["train_features"], REFERENCE["test_features"]
    labels = REFERENCE["train_labels"]
    theirs = KNeighborsClassifier(
        n_neighbors=20,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / knn.TEMPERATURE),
    ).fit(train, labels)
    ours = knn.KNNClassifier(k=20).fit(train, labels)
    np.testing.assert_allclose(
        ours.predict_proba(queries), theirs.predict_proba(queries), atol=ROUNDING / knn.TEMPERATURE
    )
    np.testing.assert_array_equal(ours.predict(queries), theirs.predict(queries))


def test_scikit_learn_can_clone_the_classifier():
    from sklearn.base import clone

    copy = clone(knn.KNNClassifier(k=3, temperature=0.2))
    assert copy.get_params() == {"k": 3, "temperature": 0.2, "device": "cpu"}
    with pytest.raises(ValueError, match="no parameter 'n'"):
        copy.set_params(n=3)


def test_scikit_learn_can_search_over_the_classifier_in_a_pipeline():
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import Pipeline

    features, labels = toy(60)
    names = np.array(["cat", "dog", "eel"])[labels]
    pipeline = Pipeline([("pca", PCA(n_components=4)), ("knn", knn.KNNClassifier(k=5))])
    assert cross_val_score(pipeline, features, names, cv=3).mean() > 0.9
    assert pipeline.fit(features, names).score(features, names) > 0.9
    assert pipeline["knn"].n_features_in_ == 4
    grid = {"knn__k": [1, 40], "knn__temperature": [0.07, 1e9]}
    search = GridSearchCV(pipeline, grid, cv=3).fit(features, names)
    # All 40 neighbours with equal weights are a vote of the classes' sizes.
    assert search.best_params_ != {"knn__k": 40, "knn__temperature": 1e9}
    assert search.best_score_ > 0.9 > search.cv_results_["mean_test_score"].min()


def test_the_speed_benchmark_runs_and_agrees_with_the_original_method(capsys):
    path = Path(__file__).parents[3] / "benchmarks" / "knn_speed.py"
    spec = importlib.util.spec_from_file_location("knn_speed", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    assert benchmark.main(["--quick"]) == 0
    printed = capsys.readouterr().out
    assert "largest difference: 0.00 points" in printed
    assert printed.count(" x\n") == 2


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_no_query_has_no_neighbours_and_no_score(kind):
    train, none = np.eye(4, 3, dtype=np.float32), np.zeros((0, 3), np.float32)
    near = knn.nearest(kind(train), kind(none), k=2)
    assert near.rows.shape == near.similarities.shape == (0, 2)
    classifier = knn.KNNClassifier(k=2).fit(train, np.arange(4))
    assert classifier.predict(none).shape == (0,)
    assert classifier.predict_proba(none).shape == (0, 4)
    with pytest.raises(ValueError, match="score needs at least one row, got none"):
        classifier.score(none, np.zeros(0, np.int64))


def test_a_classifier_tells_its_settings_and_what_it_holds():
    features, labels = toy(30)
    classifier = knn.KNNClassifier(k=3)
    assert repr(classifier) == "KNNClassifier(k=3, temperature=0.07, device='cpu')"
    assert repr(classifier.fit(features, labels)).endswith(", 30 rows of 8 in 3 classes")
