"""Accuracies of classification, and the table that says where the images of each class went."""

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sklearn.metrics import top_k_accuracy_score

from dino_infer.evaluate.reports.classes import (
    class_places,
    class_table,
    majority_figures,
    top_percent,
)


@given(st.integers(6, 12), st.integers(1, 30), st.integers(0, 9))
def test_accuracies_are_those_of_scikit_learn(classes, images, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, classes))
    wanted = rng.integers(classes, size=images)
    found = top_percent(logits, wanted)
    for top in (1, 5):
        theirs = top_k_accuracy_score(wanted, logits, k=top, labels=range(classes))
        assert found[f"top{top}_percent"] == pytest.approx(100 * theirs)


def test_of_equal_logits_the_first_class_ranks_first():
    logits = np.zeros((3, 7))
    assert top_percent(logits, np.array([0, 4, 6])) == {
        "top1_percent": pytest.approx(100 / 3),
        "top5_percent": pytest.approx(200 / 3),
    }


def test_a_class_without_logit_is_wrong_even_among_few():
    classes = np.array(["b", "d"], dtype=object)
    places = class_places(classes, np.array(["d", "a", "c", "z", "b"], dtype=object))
    assert places.tolist() == [1, -1, -1, -1, 0]
    assert top_percent(np.zeros((5, 2)), places)["top5_percent"] == 40


def test_a_row_with_nan_is_wrong():
    logits = np.array([[np.nan, np.nan], [1, np.nan], [2, 1]])
    found = top_percent(logits, np.array([0, 0, 0]))
    assert found == dict.fromkeys(("top1_percent", "top5_percent"), pytest.approx(100 / 3))


def test_the_answer_without_looking_is_the_most_frequent_class_of_the_training_set():
    train = np.array(["a"] + ["b"] * 3, dtype=object)
    figures = majority_figures(train, np.array(["a", "b", "c", "b"], dtype=object))
    assert figures.of == "majority class"
    assert figures.values == {"top1_percent": 50.0, "top5_percent": 75.0}


def test_the_table_names_the_class_that_each_is_most_often_taken_for():
    wanted = np.array(["a", "a", "a", "c"], dtype=object)
    given_labels = np.array(["a", "b", "b", "c"], dtype=object)
    found = class_table(np.array(["b"], dtype=object), wanted, given_labels, title="t")
    assert found.table.rows == [
        ["a", 3, "33.33", "b", "66.67"],
        ["b", 0, "", "", ""],
        ["c", 1, "100.00", "", ""],
    ]
    assert found.picture.size[0] > 100
