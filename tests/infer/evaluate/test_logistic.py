"""Logistic regression finds the optimum, and chooses without the images to classify."""

import json
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from dino_infer.cli import eval as evaluation
from dino_infer.evaluate.knn import Sides
from dino_infer.evaluate.logistic import CS, Solver, measure_logistic, train_logistic
from dino_infer.heads import LinearHead
from tests.infer.evaluate.labelled_sets import THREE, clusters
from tests.infer.evaluate.tables import figures


def optimum(rows, labels, c, classes):
    """The minimum of the same function by an independent solver in float64."""
    x, y = torch.from_numpy(rows).double(), torch.from_numpy(labels)
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=2000, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def loss():
        solver.zero_grad()
        cross_entropy = torch.nn.functional.cross_entropy(x @ weight.T + bias, y, reduction="sum")
        value = cross_entropy + weight.square().sum() / (2 * c)
        value.backward()
        return value

    solver.step(loss)
    return (x @ weight.T + bias).softmax(dim=1).detach().numpy()


@pytest.mark.parametrize("c", [1e-3, 0.1, 10])
@pytest.mark.parametrize("counts", [{"cat": 40, "dog": 30}, THREE], ids=["two", "three"])
def test_the_regression_is_the_minimum_of_its_function(c, counts):
    train = clusters(counts, noise=1.5)
    _, labels = np.unique(train.labels, return_inverse=True)
    solver = Solver(train.matrix, labels, classes=len(counts))
    solver(1e-6)  # it begins where the one before ended
    weight, bias = solver(c)
    logits = train.matrix @ weight.T + bias
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # Of two classes scikit-learn has one row, whose square is twice that of two opposite halves.
    theirs = optimum(train.matrix, labels, c / 2 if len(counts) == 2 else c, len(counts))
    np.testing.assert_allclose(shares, theirs, atol=2e-3)


def test_values_of_the_grid_are_solved_as_each_alone_whatever_came_before():
    train, val = (clusters(THREE, seed=seed, noise=2.0, dim=24) for seed in (0, 1))
    _, labels = np.unique(train.labels, return_inverse=True)
    rows, queries = (3 * one.matrix.astype(np.float64) + 2 for one in (train, val))

    def objective(weight, bias, c):
        logits = torch.from_numpy(rows @ weight.T + bias)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels), reduction="sum")
        return float(loss) + np.square(weight, dtype=np.float64).sum() / (2 * c)

    solver = Solver(rows.astype(np.float32), labels, classes=3)
    for c in (*CS[::4], *reversed(CS[1::4])):
        weight, bias = solver(c)
        alone = LogisticRegression(C=c, tol=1e-12, max_iter=20_000).fit(rows, labels)
        expected = objective(alone.coef_, alone.intercept_, c)
        assert objective(weight, bias, c) == pytest.approx(expected, rel=1e-3)
        found = (queries @ weight.T + bias).argmax(axis=1)
        np.testing.assert_array_equal(found, alone.predict(queries))


def test_a_choice_by_few_images_and_the_end_of_the_grid_are_told(caplog):
    few = Sides(clusters({"cat": 9, "dog": 9}, noise=0.1), clusters({"cat": 9}, noise=0.1))
    measure_logistic({"model": few, "untrained": few}, cs=np.logspace(-6, 2, 9))
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "C = 1e-06 was chosen on 2 held-out images, where one more or less may change it",
        "C = 1e-06 is the end of the grid; a better one may lie beyond",
    ]
    caplog.clear()
    many = Sides(clusters({"cat": 300, "dog": 300}, noise=2.0), few.val)
    chosen = measure_logistic({"model": many}, cs=(100.0, 1e-6, 0.01)).settings["cs"]["model"]
    assert ("end of the grid" in caplog.text) == (chosen != 0.01)
    assert "held-out" not in caplog.text


def test_the_grid_is_that_of_dinov2_and_is_refined_around_the_best_power_of_ten():
    assert len(CS) == 45 and (CS[0], CS[-1]) == (pytest.approx(1e-6), pytest.approx(1e5))
    found = train_logistic(clusters(THREE, noise=2.0))
    tried = [c for c, _ in found.held_out.rows]
    assert set(CS[::4]) <= set(tried) <= set(CS) and len(tried) < 20
    shares = dict(found.held_out.rows)
    assert shares[found.chosen] == max(shares.values())
    assert found.chosen == min(c for c in shares if shares[c] == max(shares.values()))
    place = CS.index(found.chosen)
    assert {*CS[max(0, place - 1) : place + 2]} <= set(tried)


def test_the_regularisation_is_chosen_without_the_images_to_classify():
    train = clusters(THREE, noise=1.5)
    sides = [
        Sides(train, clusters(THREE, seed=seed, noise=noise)) for seed, noise in ((1, 1), (2, 3))
    ]
    results = [measure_logistic({"model": side}) for side in sides]
    assert results[0].settings["cs"] == results[1].settings["cs"]
    assert results[0].model.values != results[1].model.values


def test_one_class_is_always_right():
    sides = Sides(clusters({"cat": 5}), clusters({"cat": 3}, seed=1))
    assert measure_logistic({"model": sides}).model.values["top1_percent"] == 100


def test_the_verb_leaves_a_head_that_gives_its_figures(capsys, tmp_path, feature_set):
    train = feature_set("train", {"cat": 20, "dog": 20, "eel": 20}, noise=1.0)
    val = feature_set("val", {"cat": 10, "dog": 10, "eel": 10}, seed=1, noise=1.0)
    args = ["logistic", "--train", str(train), "--val", str(val), "-o", str(tmp_path / "out")]
    assert evaluation.main(args) == 0
    top1 = figures(capsys.readouterr().out)["top1_percent"]["model"]
    head = LinearHead.load(tmp_path / "out" / "head.safetensors")
    right = head.predict(np.load(val)) == np.repeat(["cat", "dog", "eel"], 10)
    assert 100 * right.mean() == pytest.approx(top1, abs=0.01)
    settings = json.loads((tmp_path / "out" / "result.json").read_text())["settings"]
    assert settings["cs"]["model"] in CS


def test_a_missing_scikit_learn_is_one_line(capsys, feature_set, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    train = feature_set("train", {"cat": 5, "dog": 5})
    assert evaluation.main(["logistic", "--train", str(train), "--val", str(train)]) == 1
    stderr = capsys.readouterr().err
    assert "pip install 'dino-toolkit[eval]'" in stderr and len(stderr.splitlines()) == 1
