"""The cache of features: what is damaged is made again, and two processes share the work."""

import os
import threading

import numpy as np
import pytest

from dino_infer.embedding.embedder import Embedder
from dino_infer.evaluate import contestants, load_networks
from dino_infer.files import hold_output
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone
from dino_infer.sources.image_list import list_images


@pytest.fixture
def rows_of(tmp_path, image_folder, weights):
    """A function that gives the rows of a few images, by way of the cache."""
    images = list_images([image_folder(count=4)])

    def rows():
        (network,) = load_networks(weights, floors=False, cache=tmp_path / "cache", device="cpu")
        return network.rows(images).features

    return rows


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, os.unlink])
@pytest.mark.parametrize("ending", ["npy", "json", "parquet"])
def test_a_damaged_cache_is_made_again(rows_of, tmp_path, caplog, ending, damage):
    before = rows_of()
    (path,) = (tmp_path / "cache").glob(f"*.{ending}")
    damage(path)
    np.testing.assert_array_equal(rows_of(), before)
    assert "features in the cache cannot be used and are made again" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(rows_of(), before)
    assert "cannot be used" not in caplog.text


def test_a_cache_that_another_writes_to_is_waited_for(rows_of, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(contestants, "WAIT_S", 0.01)
    caplog.set_level("INFO")
    before = rows_of()
    (manifest,) = (tmp_path / "cache").glob("*.json")
    found = []
    other = threading.Thread(target=lambda: found.append(rows_of()))
    with hold_output(manifest):
        other.start()
        other.join(timeout=1)
        assert other.is_alive() and not found
    other.join(timeout=60)
    np.testing.assert_array_equal(found[0], before)
    assert caplog.text.count("waiting for another process") == 1


@pytest.mark.parametrize("arch", ["vit_micro", "resnet_micro"])
def test_exported_weights_refuse_a_feature_that_is_not_theirs(arch):
    embedder = Embedder(build_backbone(arch), Preprocess(size=32), device="cpu")
    exported = contestants.Exported(made=embedder)
    assert exported.embedder() is exported.embedder(feature="cls", size=64) is embedder
    with pytest.raises(ValueError, match="by their feature 'cls', not 'last4'"):
        exported.embedder(feature="last4")
