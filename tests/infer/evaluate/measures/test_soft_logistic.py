import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dino_infer.evaluate.measures.soft_logistic import choose_soft_logistic, fit_soft_logistic


def problem(rows=400, dim=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, dim)).astype(np.float32) * [1, 2, 3, 1, 1, 1] + 5
    features = features.astype(np.float32)
    logits = (features - 5) @ rng.normal(size=(dim, classes)) + rng.gumbel(size=(rows, classes))
    return features, logits.argmax(axis=1)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_hard_labels_give_the_probabilities_of_scikit_learn(strength):
    features, classes = problem()
    fitted = fit_soft_logistic(features, np.eye(3, dtype=np.float32)[classes], strength=strength)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    oracle = LogisticRegression(C=strength, tol=1e-8, max_iter=2000).fit(scaled, classes)
    # Float32 sums over the rows stop the search a little earlier.
    np.testing.assert_allclose(fitted(features), oracle.predict_proba(scaled), atol=2e-3)


def test_soft_labels_are_fitted_as_rows_weighed_by_their_shares():
    features, classes = problem()
    shares = np.full((len(classes), 3), 0.1, np.float32)
    shares[np.arange(len(classes)), classes] = 0.8
    fitted = fit_soft_logistic(features, shares, strength=1.0)
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    oracle = LogisticRegression(C=1.0, tol=1e-8, max_iter=2000)
    oracle.fit(np.tile(scaled, (3, 1)), np.repeat([0, 1, 2], len(scaled)), shares.T.ravel())
    np.testing.assert_allclose(fitted(features), oracle.predict_proba(scaled), atol=2e-3)


def test_the_strength_is_chosen_on_images_that_were_held_out():
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(60, 40)).astype(np.float32)
    labels = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 60)]
    groups = np.arange(60) // 3
    assert choose_soft_logistic(noise, labels, groups).strength < 1
    features, classes = problem()
    labels = np.eye(3, dtype=np.float32)[classes]
    chosen = choose_soft_logistic(features, labels, np.arange(400) // 10)
    assert chosen.strength > 1e-4


def test_of_fewer_than_five_images_the_last_is_held_out(caplog):
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(60, 40)).astype(np.float32)
    labels = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 60)]
    images = np.array([0, 3, 7])[np.arange(60) // 20]  # others could not be read
    assert choose_soft_logistic(noise, labels, images).strength < 1
    assert not caplog.records
    assert choose_soft_logistic(noise, labels, np.zeros(60, np.int64)).strength == 1
    assert "one image cannot be held out, so the weakest regularisation" in caplog.text


def test_a_constant_feature_does_no_harm():
    features, classes = problem(rows=40)
    features[:, 0] = 3
    fitted = fit_soft_logistic(features, np.eye(3, dtype=np.float32)[classes], strength=1.0)
    assert np.isfinite(fitted(features)).all()
