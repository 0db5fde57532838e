"""One set of consecutive images: rows, rows of NaN, and a share without images."""

import numpy as np
import pytest

from dino_infer.errors import DataError
from dino_infer.features.embed_set import EmbedWork
from dino_infer.features.files import feature_paths, read_features
from dino_infer.features.output import Outcome, Output
from dino_infer.sources.image_list import list_images
from tests.infer.pixel_engine import pixel_embedder


@pytest.fixture
def work(tmp_path, image_folder):
    """A function that embeds part of six images, of which the second cannot be read."""
    folder = image_folder(count=6, classes=2)
    sorted(folder.rglob("*.png"))[1].write_bytes(b"no image")
    images = list_images([folder])

    def run(part, output, **job):
        job = {"images": len(part), "dtype": output.dtype, **job}
        paths = feature_paths(tmp_path / "feats.npy")
        return EmbedWork(pixel_embedder(), images, None, part, paths, job, output).run(), paths

    return run


def test_an_unreadable_image_has_no_row_or_a_row_of_nan(work):
    outcome, paths = work(range(6), Output())
    assert (outcome.images, outcome.rows, outcome.failed) == (6, 5, 1)
    without = read_features(paths.matrix).matrix
    outcome, paths = work(range(6), Output(on_error="nan", overwrite=True))
    assert (outcome.images, outcome.rows, outcome.failed) == (6, 6, 1)
    rows = np.array(read_features(paths.matrix).matrix)
    assert np.isnan(rows[1]).all()
    np.testing.assert_array_equal(np.delete(rows, 1, axis=0), without)


def test_an_unreadable_image_may_end_the_work(work):
    with pytest.raises(DataError, match=r"cannot be read: .*; mend it, or pass `on_error='skip'`"):
        work(range(6), Output(on_error="fail"))


def test_a_share_may_be_without_images(work):
    outcome, _ = work(range(0), Output(), shard="7/8")
    assert (outcome.images, outcome.rows) == (0, 0)


def test_a_finished_set_is_found_and_not_made_again(work, caplog):
    first = work(range(6), Output(), seed=1)[0]
    caplog.set_level("INFO")
    assert work(range(6), Output(resume=True), seed=1)[0] == first
    assert isinstance(first, Outcome) and "is complete" in caplog.text
    with pytest.raises(DataError, match="was made differently: seed"):
        work(range(6), Output(resume=True), seed=2)
