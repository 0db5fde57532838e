import numpy as np
import pytest
from sklearn.linear_model import Ridge

from dino_infer.objects.painting import BACKGROUND, OBJECT, UNMARKED, fit_patch_model

EXACT = 1e-4  # of scores around 1, in single precision


@pytest.fixture
def painted():
    """Features of two images, of a few patches each, with marks on some."""
    rng = np.random.default_rng(0)
    marks = [rng.integers(-1, 2, shape).astype(np.int8) for shape in ((5, 7), (6, 4))]
    features = [rng.normal(size=(*mark.shape, 9)).astype(np.float32) for mark in marks]
    for one, mark in zip(features, marks, strict=True):
        one[mark == OBJECT, 2] += 3
    return features, marks


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_scores_are_those_of_scikit_learns_weighted_ridge_regression(painted, ridge):
    features, marks = painted
    rows = np.concatenate([one.reshape(-1, 9) for one in features]).astype(np.float64)
    labels = np.concatenate([mark.ravel() for mark in marks])
    known = labels != UNMARKED
    counts = np.bincount(labels[known])
    weights = 0.5 / counts[labels[known]]
    mean = weights @ rows[known]
    variance = (weights @ (rows[known] - mean) ** 2).mean()
    oracle = Ridge(alpha=ridge * variance)
    oracle.fit(rows[known], 2.0 * labels[known] - 1, sample_weight=weights)
    model = fit_patch_model(features, marks, ridge=ridge)
    for one in features:
        expected = oracle.predict(one.reshape(-1, 9)).reshape(one.shape[:2])
        np.testing.assert_allclose(model.scores(one), expected, atol=EXACT)


def test_unmarked_patches_change_nothing(painted):
    features, marks = painted
    model = fit_patch_model(features, marks)
    for one, mark in zip(features, marks, strict=True):
        one[mark == UNMARKED] = 1e6
    np.testing.assert_array_equal(fit_patch_model(features, marks).weights, model.weights)


def test_features_that_are_all_alike_decide_nothing():
    marks = [np.array([[OBJECT, BACKGROUND]], np.int8)]
    model = fit_patch_model([np.ones((1, 2, 3), np.float32)], marks)
    assert (model.scores(np.ones((1, 2, 3), np.float32)) == 0).all()


def test_what_cannot_be_fitted_is_said(painted):
    features, marks = painted
    with pytest.raises(ValueError, match="0 patches of the object and 59 of the background"):
        fit_patch_model(features, [np.zeros_like(mark) for mark in marks])
    with pytest.raises(ValueError, match="must have the same patches"):
        fit_patch_model(features, marks[::-1])
    with pytest.raises(ValueError, match="`ridge` must be above 0, got 0"):
        fit_patch_model(features, marks, ridge=0)
