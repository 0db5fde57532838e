import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from dino_infer.evaluate.measures.health import feature_std, lidar, rankme, unique_prototypes


def test_rankme_counts_the_directions_that_features_use():
    assert rankme(torch.eye(16)) == pytest.approx(16, rel=0.01)
    line = torch.randn(50, 1) @ torch.randn(1, 16)
    assert rankme(line) == pytest.approx(1, abs=0.01)
    half = torch.cat([torch.eye(8), torch.zeros(8, 8)], dim=1)
    assert rankme(half) == pytest.approx(8, rel=0.01)


def plain_lidar(views, delta=1e-4):
    """The definition with expectations as loops and the square root of the inverse, in float64."""
    images, count, dim = views.shape
    centers = views.mean(axis=1)
    mean = centers.mean(axis=0)
    between = sum(np.outer(c - mean, c - mean) for c in centers) / images
    within = sum(
        np.outer(v - centers[i], v - centers[i]) for i in range(images) for v in views[i]
    ) / (images * count)
    values, vectors = np.linalg.eigh(within + delta * np.eye(dim))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    eigenvalues = np.clip(np.linalg.eigvalsh(root @ between @ root), 0, None)
    shares = eigenvalues / max(eigenvalues.sum(), 1e-30) + 1e-7
    return np.exp(-(shares * np.log(shares)).sum())


@settings(deadline=None, max_examples=30)
@given(
    images=st.integers(2, 12),
    count=st.integers(2, 5),
    dim=st.integers(1, 9),
    noise=st.sampled_from([0.0, 0.01, 1.0]),
    seed=st.integers(0, 99),
)
def test_lidar_is_that_of_its_definition(images, count, dim, noise, seed):
    rng = np.random.default_rng(seed)
    views = rng.normal(size=(images, 1, dim)) + noise * rng.normal(size=(images, count, dim))
    assert lidar(torch.from_numpy(views)) == pytest.approx(plain_lidar(views), rel=1e-4)


def test_lidar_ignores_directions_in_which_views_of_one_image_differ():
    torch.manual_seed(1)
    views = torch.randn(400, 1, 8).expand(400, 6, 8).clone()
    views[..., :6] += 1000 * torch.randn(400, 6, 6)
    every = rankme((views - views.mean(dim=(0, 1))).flatten(0, 1))
    assert lidar(views) == pytest.approx(2, abs=0.1) and every > 5


@pytest.mark.parametrize("shape", [(1, 5, 3), (5, 1, 3)])
def test_lidar_needs_two_images_and_two_views(shape):
    with pytest.raises(ValueError, match="at least 2 images and 2 views"):
        lidar(torch.zeros(shape))


def test_equal_features_have_no_spread_and_scattered_ones_fill_the_sphere():
    assert feature_std(torch.ones(512, 64)).item() == pytest.approx(0, abs=1e-3)
    assert feature_std(torch.randn(512, 64)).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("copies", [1, 3, 700])
def test_copies_of_a_prototype_count_once_whatever_their_length(copies):
    torch.manual_seed(0)
    originals = torch.randn(40, 64)
    rows = originals.repeat(copies, 1) * torch.rand(40 * copies, 1).add(0.1)
    assert unique_prototypes(rows[torch.randperm(len(rows))]) == 40


def test_prototypes_are_copies_up_to_the_tolerance():
    angles = torch.tensor([0.0, 0.2, 0.25])  # cosines 0.980 and 0.969 with the first
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert unique_prototypes(rows[:2]) == 1
    assert unique_prototypes(rows[[0, 2]]) == 2
    assert unique_prototypes(rows[:2], tolerance=0.01) == 2
    assert unique_prototypes(torch.cat([rows[:1], -rows[:1]])) == 2


def test_more_prototypes_than_are_compared_at_once_stay_unique():
    torch.manual_seed(0)
    assert unique_prototypes(torch.randn(1500, 64)) == 1500
