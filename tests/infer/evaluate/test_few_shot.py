"""Few-shot classification: three classifiers on the same draws, as their definitions say."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from dino_infer.cli import eval as evaluation
from dino_infer.evaluate.data.draws import drawn
from dino_infer.evaluate.few_shot import C, class_means, measure_few_shot
from dino_infer.evaluate.knn import Sides, few_shot_accuracies
from tests.infer.evaluate.labelled_sets import THREE, clusters

NOISE = 2.0


@pytest.fixture
def side():
    return Sides(clusters(THREE, noise=NOISE), clusters(THREE, seed=1, noise=NOISE))


def test_every_classifier_sees_the_draws_of_few_shot_k_nn(side):
    result = measure_few_shot({"model": side}, n_per_class=(2, 5), tries=3, seed=7)
    shots = few_shot_accuracies(*side, n_per_class=(2, 5), tries=3, seed=7, ks=[20])
    unit = side.train.matrix / np.linalg.norm(side.train.matrix, axis=1, keepdims=True)
    queries = side.val.matrix / np.linalg.norm(side.val.matrix, axis=1, keepdims=True)
    for count, shot in zip((2, 5), shots, strict=True):
        logistic, mean = [], []
        for number in range(3):
            rng = np.random.default_rng((7, count, number))
            rows = drawn(side.train.labels, count, rng=rng)
            few, labels = unit[rows], side.train.labels[rows].astype(str)
            model = LogisticRegression(C=C, max_iter=1000).fit(few, labels)
            wanted = side.val.labels.astype(str)
            logistic.append(100 * model.score(queries, wanted))
            centers = np.stack([few[labels == name].mean(axis=0) for name in sorted(THREE)])
            centers /= np.linalg.norm(centers, axis=1, keepdims=True)
            nearest = np.array(sorted(THREE))[(queries @ centers.T).argmax(axis=1)]
            mean.append(100 * np.mean(nearest == wanted))
        for method, theirs in (("logistic", logistic), ("nearest_mean", mean)):
            name = f"n{count}_{method}_top1_percent"
            assert result.model.values[name] == pytest.approx(np.mean(theirs))
            assert result.model.spreads[name] == pytest.approx(np.std(theirs, ddof=1))
        name = f"n{count}_knn_top1_percent"
        assert result.model.values[name] == pytest.approx(shot.top1_percent_mean)


def test_floors_get_the_same_draws_and_chance_stands_beside(side):
    result = measure_few_shot({"model": side, "untrained": side}, n_per_class=(1,), tries=2)
    model, untrained, chance = result.figures
    assert model.values == untrained.values
    assert chance.of == "majority class"
    assert chance.values == dict.fromkeys(model.values, pytest.approx(100 / 3))
    assert len(result.tables["draws"].rows) == 3 * 2


def test_a_number_that_is_given_twice_is_drawn_once(side):
    once, twice = (
        measure_few_shot({"model": side}, n_per_class=given, tries=2) for given in [(1,), (1, 1)]
    )
    assert twice.as_json() == once.as_json() and twice.tables == once.tables


def test_classes_with_too_few_images_give_all_and_unknown_ones_are_wrong(caplog):
    train = clusters({"cat": 2, "dog": 20}, noise=0.01)
    val = clusters({"cat": 10, "dog": 10, "yak": 20}, seed=1, noise=0.01)
    result = measure_few_shot({"model": Sides(train, val)}, n_per_class=(5,), tries=2)
    assert set(result.model.values.values()) == {50.0}
    assert "1 classes have fewer than 5 training images and use all (cat)" in caplog.text
    assert "1 classes of set have no training image and count as wrong (yak)" in caplog.text


def test_class_means_are_unit_vectors():
    rows = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    means = class_means(rows, np.array([0, 0, 1]), classes=2)
    np.testing.assert_allclose(means, [[0.5**0.5, 0.5**0.5], [1, 0]], rtol=1e-6)


def test_the_verb_prints_a_spread_for_every_figure(capsys, tmp_path, feature_set):
    train = feature_set("train", {"cat": 20, "dog": 20}, noise=1.5)
    val = feature_set("val", {"cat": 20, "dog": 20}, seed=1, noise=1.5)
    args = ["few-shot", "--train", str(train), "--val", str(val), "--n-per-class", "1", "3"]
    assert evaluation.main([*args, "-o", str(tmp_path / "out")]) == 0
    stdout = capsys.readouterr().out
    assert stdout.count("±") == 6 and "n3_nearest_mean_top1_percent" in stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"draws.csv", "result.json"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n-per-class"], "--n-per-class needs at least one number"),
        (["--n-per-class", "0"], "--n-per-class must be at least 1, got 0"),
        (["--tries", "1"], "--tries must be at least 2 to tell a spread, got 1"),
        (["--feature", "cls"], "--feature is for images; feature files hold theirs"),
    ],
)
def test_wrong_usage_is_one_line(capsys, feature_set, flags, message):
    train = feature_set("train", {"cat": 5, "dog": 5})
    assert evaluation.main(["few-shot", "--train", str(train), "--val", str(train), *flags]) == 2
    assert message in capsys.readouterr().err
