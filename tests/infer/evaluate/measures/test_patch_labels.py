import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import jaccard_score

from dino_infer.evaluate.measures import patch_labels
from dino_infer.evaluate.measures.patch_labels import (
    balanced_patches,
    class_iou,
    label_counts,
    mean_iou,
    mean_iou_spread,
    pixel_classes,
    spread_labels,
    tally,
)


def test_pixels_are_counted_by_patch_and_class_without_void():
    classes = np.array([[0, 2, -1], [0, 1, 1]], np.int32)
    parts = np.array([[0, 0, 1], [0, 1, 1]])
    counts = label_counts(classes, parts, parts_number=3, classes_number=3)
    np.testing.assert_array_equal(counts, [[2, 0, 1], [0, 2, 0], [0, 0, 0]])


def test_patches_of_rare_classes_are_chosen_more_often():
    counts = np.zeros((100, 2), np.int64)
    counts[:, 0] = 4
    counts[:5] = [0, 4]
    draws = [balanced_patches(counts, 10, rng=np.random.default_rng(i)) for i in range(50)]
    rare = np.mean([(chosen < 5).sum() for chosen in draws])
    assert rare > 3  # at random it would be 0.5
    assert all(len(np.unique(chosen)) == 10 for chosen in draws)


def test_patches_that_are_void_are_never_chosen_and_a_fewer_number_gives_a_part():
    counts = np.array([[1, 0], [0, 0], [2, 2], [0, 3]])
    everything = balanced_patches(counts, 9, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(everything, [0, 2, 3])
    two = balanced_patches(counts, 2, rng=np.random.default_rng(0))
    one = balanced_patches(counts, 1, rng=np.random.default_rng(0))
    assert set(one) < set(two) < set(everything)


@pytest.mark.parametrize("at_once", [1, 2**24])
def test_labels_are_weighed_by_the_softmax_of_the_similarities(monkeypatch, at_once):
    monkeypatch.setattr(patch_labels, "VALUES_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    similarities = rng.random((6, 3)).astype(np.float32)
    rows = rng.integers(0, 8, (6, 3))
    labels = rng.random((8, 4)).astype(np.float32)
    found = spread_labels(similarities, rows, labels, temperature=0.02)
    weights = softmax(similarities.astype(np.float64) / 0.02, axis=1)
    expected = (weights[..., None] * labels[rows]).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_scores_between_patches_are_interpolated_and_the_highest_wins():
    scores = np.array([[0.9, 0, 0.1], [0.2, 0, 0.8]], np.float32)
    found = pixel_classes(scores, (1, 2), 3, 8)
    # Pixel centres at 1/16 ... of the width; patch centres at 1/4 and 3/4.
    place = ((np.arange(8) + 0.5) / 4 - 0.5).clip(0, 1)
    expected = np.where(0.9 - 0.7 * place >= 0.1 + 0.7 * place, 0, 2)
    np.testing.assert_array_equal(found, np.tile(expected, (3, 1)))
    assert pixel_classes(np.zeros((2, 3), np.float32), (1, 2), 2, 2).shape == (2, 2)


def test_jaccard_indices_are_those_of_scikit_learn_over_all_pixels():
    rng = np.random.default_rng(0)
    wanted = rng.integers(-1, 4, (5, 6, 7)).astype(np.int32)
    found = rng.integers(0, 3, (5, 6, 7)).astype(np.int32)
    tallies = np.stack(
        [tally(one, two, classes_number=6) for one, two in zip(wanted, found, strict=True)]
    )
    known = wanted >= 0
    expected = jaccard_score(wanted[known], found[known], average=None, labels=range(4))
    np.testing.assert_allclose(class_iou(tallies), [*expected, np.nan, np.nan])
    assert mean_iou(tallies) == pytest.approx(np.mean(expected))


def test_the_spread_is_that_of_draws_of_images_and_follows_the_seed():
    same = np.tile(np.array([[3, 2], [4, 4], [5, 3]]), (6, 1, 1))
    assert mean_iou_spread(same, seed=0) == pytest.approx(0)
    other = same.copy()
    other[:3, 0] = 0
    assert mean_iou_spread(other, seed=0) > 0.02
    assert mean_iou_spread(other, seed=0) == mean_iou_spread(other, seed=0)
