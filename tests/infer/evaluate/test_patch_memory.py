import numpy as np
import pytest

from dino_infer.errors import DataError
from dino_infer.evaluate.data.mask_sets import mask_sets
from dino_infer.evaluate.patch_memory import (
    mean_color_embedder,
    memory_banks,
    nearest_labels,
    patch_features,
    patch_label_counts,
    predicted_classes,
)
from tests.infer.evaluate.masked import striped

GRID = (3, 4)  # patches of 8 x 8 pixels in 24 x 32


@pytest.fixture
def sets(tmp_path):
    return mask_sets(striped(tmp_path))


@pytest.fixture
def embedder():
    return mean_color_embedder((24, 32), 8)


def banks(sets, embedder, **options):
    patches = patch_features(embedder, sets.memory, what="memory")
    return memory_banks(patches, sets, grid=GRID, **{"subsets": [1], "seed": 0, **options})


def test_patches_carry_the_share_of_each_class_in_their_known_pixels(sets, embedder):
    (bank,) = banks(sets, embedder, size=10_000)
    assert bank.features.shape == (3 * 12, 4)
    np.testing.assert_allclose(np.linalg.norm(bank.features, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(bank.labels.sum(axis=1), 1, rtol=1e-6)
    counts = patch_label_counts(sets, 0, GRID)
    assert counts.sum() == 36 * 46  # two columns are void
    np.testing.assert_allclose(bank.labels[:12], counts / counts.sum(axis=1, keepdims=True))


def test_a_memory_is_bounded_and_every_image_gives_as_many_patches(sets, embedder):
    (bank,) = banks(sets, embedder, size=14)
    assert np.bincount(bank.images).tolist() == [4, 4, 4]
    (least,) = banks(sets, embedder, size=1)
    assert np.bincount(least.images).tolist() == [1, 1, 1]


def test_draws_follow_the_seed_and_smaller_shares_have_more_of_each_image(sets, embedder):
    whole, third = banks(sets, embedder, size=12, subsets=[1, 3])
    again, _ = banks(sets, embedder, size=12, subsets=[1, 3])
    other, _ = banks(sets, embedder, size=12, subsets=[1, 3], seed=1)
    np.testing.assert_array_equal(whole.features, again.features)
    assert (whole.features != other.features).any()
    assert third.images.tolist() == [0] * 12
    assert {tuple(row) for row in whole.features[:4]} < {tuple(row) for row in third.features}


def test_an_own_patch_is_its_own_nearest_neighbour(sets, embedder):
    (bank,) = banks(sets, embedder, size=10_000)
    predict = nearest_labels(bank, k=1, temperature=0.02, device="cpu")
    np.testing.assert_allclose(predict(bank.features), bank.labels)
    more = nearest_labels(bank, k=500, temperature=0.02, device="cpu")
    np.testing.assert_allclose(more(bank.features).sum(axis=1), 1, rtol=1e-5)


def test_stripes_are_found_by_their_colours_alone(sets, embedder):
    (bank,) = banks(sets, embedder, size=10_000)
    predictors = {"knn": nearest_labels(bank, k=5, temperature=0.02, device="cpu")}
    patches = patch_features(embedder, sets.queries, what="queries")
    for one in predicted_classes(patches, sets, predictors, grid=GRID):
        known = one.wanted >= 0
        assert (one.found["knn"] == one.wanted)[known].mean() > 0.85


def test_images_that_cannot_be_read_are_warned_of_and_passed_over(sets, embedder, caplog):
    for i in range(len(sets.memory)):
        path = sets.memory.images.location(i)
        with open(path, "r+b") as file:
            file.truncate(300)
        left = banks(sets, embedder, size=99) if i < 2 else []
        assert all(0 not in bank.images for bank in left)
    assert "corrupt" in caplog.text or "damaged" in caplog.text
    with pytest.raises(DataError, match="no image of .* could be read"):
        banks(sets, embedder, size=99)
