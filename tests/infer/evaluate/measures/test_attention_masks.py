import numpy as np

from dino_infer.attention.maps import grid_masks
from dino_infer.evaluate.measures.attention_masks import (
    heads_of_others,
    mask_scores,
    with_mean,
)
from dino_infer.evaluate.measures.overlaps import Counts

TWO_OBJECTS = Counts(np.array([[4, 0, 0, 0], [0, 4, 0, 0]]), np.array([4, 4, 4, 4]))


def heads(*rows):
    return np.array(rows, np.float32).reshape(len(rows), 2, 2)


def test_the_best_head_is_taken_for_each_object_by_itself():
    maps = heads([0.9, 0, 0, 0], [0, 0.9, 0, 0])
    scores = mask_scores(maps, TWO_OBJECTS, masses=[0.6])
    np.testing.assert_allclose(scores.iou, [[0.5, 0.5, 0.5]])
    np.testing.assert_allclose(scores.best, [1.0])
    np.testing.assert_allclose(scores.precision, [[1, 1, 1]])
    np.testing.assert_allclose(scores.recall, [[0.5, 0.5, 1]])


def test_the_mean_head_is_the_mean_of_the_maps_and_no_candidate_of_the_best():
    maps = heads([0.6, 0, 0.4, 0], [0, 0.6, 0.4, 0])
    last = grid_masks(with_mean(maps), 0.4)[-1]
    np.testing.assert_array_equal(last, [[False, False], [True, False]])
    one = Counts(np.array([[0, 0, 4, 0]]), np.array([4, 4, 4, 4]))
    scores = mask_scores(maps, one, masses=[0.4])
    np.testing.assert_allclose(scores.iou[0], [0, 0, 1])
    np.testing.assert_allclose(scores.best, [0])


def test_more_mass_covers_more():
    rng = np.random.default_rng(0)
    scores = mask_scores(
        rng.random((3, 2, 2)).astype(np.float32), TWO_OBJECTS, masses=[0.2, 0.6, 1.0]
    )
    assert (np.diff(scores.recall, axis=0) >= 0).all()
    np.testing.assert_allclose(scores.recall[-1], 1)
    np.testing.assert_allclose(scores.precision[-1], 0.5)


def test_an_images_own_score_has_no_part_in_the_choice_of_its_head():
    iou = np.array([[0.9, 0.1], [0.1, 0.2], [0.1, 0.2]])
    np.testing.assert_array_equal(heads_of_others(iou), [1, 0, 0])


def test_a_single_image_has_no_others_to_choose_on():
    np.testing.assert_array_equal(heads_of_others(np.array([[0.9, 0.1, 0.4]])), [2])
