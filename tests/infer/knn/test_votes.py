"""The vote of neighbours: who wins, who ranks where, and what a tie is."""

import numpy as np
import pytest

from dino_infer.knn import classifier as knn, votes


def test_rankings_say_who_won_and_where_the_own_label_ranks():
    train = np.eye(3, dtype=np.float32)
    queries = np.array([[3, 2, 1], [3, 2, 1], [3, 2, 1]], dtype=np.float32)
    found = votes.rankings(
        knn.nearest(train, queries, k=3),
        np.array(["a", "b", "c"]),
        np.array(["a", "c", "zebra"]),
        ks=(1, 3),
    )
    assert list(found[3].winners) == ["a", "a", "a"]
    assert list(found[3].ranks) == [0, 2, votes.UNRANKED]
    assert list(found[1].ranks) == [0, votes.UNRANKED, votes.UNRANKED]  # b and c have no vote
    assert knn.accuracy(found[3], k=3).top5_percent == pytest.approx(200 / 3)


def test_fewer_rows_than_k_give_no_hit_to_classes_without_a_row():
    train = np.eye(3, dtype=np.float32)
    found = votes.rankings(
        knn.nearest(train, train, k=3), np.array([4, 5, 6]), np.array([4, 0, 9]), ks=(5, 200)
    )
    for ranking in found.values():
        assert list(ranking.ranks) == [0, votes.UNRANKED, votes.UNRANKED]
        assert knn.accuracy(ranking, k=5).top5_percent == pytest.approx(100 / 3)


def test_a_vote_too_far_for_a_float_still_ranks_before_no_vote():
    train = np.array([[1, 0], [-1, 0], [0, -1]], dtype=np.float32)
    found = votes.rankings(
        knn.nearest(train, train[:1], k=3),
        np.array(["a", "z", "b"]),
        np.array(["z"]),
        ks=(3,),
        temperature=1e-4,
    )
    assert list(found[3].ranks) == [2]


@pytest.mark.parametrize("labels", [["zebra", "ant"], ["ant", "zebra"], [1, True], [2, "2"]])
def test_of_equal_votes_that_of_the_nearest_neighbour_is_first(labels):
    said = votes.vote([0.5, 0.5], labels)
    assert said == ([(labels[0], 0.5), (labels[1], 0.5)], [0.5, 0.5])
    assert type(said.classes[0][0]) is type(labels[0])
    rows = np.ones((2, 4), dtype=np.float32)
    classes = np.array([f"{label} {type(label)}" for label in labels])
    assert knn.KNNClassifier(k=2).fit(rows, classes).predict(rows[:1]) == classes[:1]
    found = votes.rankings(knn.nearest(rows, rows, k=2), classes, classes, ks=(1, 2))
    assert list(found[2].winners) == [classes[0]] * 2
    assert list(found[2].ranks) == [0, 1]
    assert list(found[1].ranks) == [0, votes.UNRANKED]


def test_more_votes_win_over_the_nearest_neighbour():
    said = votes.vote([0.5, 0.49, 0.49], ["zebra", "ant", "ant"])
    assert [name for name, _ in said.classes] == ["ant", "zebra"]
    assert sum(said.shares) == pytest.approx(1)
    assert votes.vote([], []) == ([], [])
