"""Features on their way into an index: whole folders of partitions, and pictures of equal names."""

import pytest
from PIL import Image

from dino_app.indexing.building import item_ids
from dino_app.indexing.from_features import feature_items, feature_source
from dino_infer.errors import DataError
from dino_infer.features.files import partition_paths
from dino_infer.features.job import embed_to_file, embed_to_folder
from dino_infer.sources.image_list import list_images
from tests.infer.pixel_engine import pixel_embedder


@pytest.fixture
def folder(tmp_path, image_folder):
    """Three partitions of four images."""
    images = list_images([image_folder(count=12)])
    embed_to_folder(pixel_embedder(), images, tmp_path / "set", partition_size=4)
    return tmp_path / "set"


def test_a_folder_of_which_a_partition_is_missing_is_refused(folder):
    (folder / "manifests" / "notes.json").write_text("mine")
    assert feature_source(folder).rows == 12
    partition_paths(folder, 2, count=3).manifest.unlink()
    with pytest.raises(DataError, match="holds 2 of 3 partitions; run dino-embed --resume"):
        feature_source(folder)
    partition_paths(folder, 0, count=3).manifest.unlink()
    with pytest.raises(DataError, match=r"expected partition 0/3 of .*, got '1/3'"):
        feature_source(folder)


def test_a_row_takes_the_picture_of_its_content_among_equal_names(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (24, 24), colour).save(tmp_path / name / "x.bmp")
    both = list_images([tmp_path / "a", tmp_path / "b"])
    embed_to_file(pixel_embedder(), both.select([0]), tmp_path / "t.npy")
    source = feature_source(tmp_path / "t.npy")
    [part] = feature_items(source, ["x.bmp"], images=both, thumbnails=16)
    [red] = feature_items(source, ["x.bmp"], images=both.select([0]), thumbnails=16)
    assert part.items[0].thumbnail == red.items[0].thumbnail is not None


def test_two_rows_of_one_name_are_named_with_their_folders(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (24, 24), colour).save(tmp_path / name / "x.bmp")
    both = list_images([tmp_path / "a", tmp_path / "b"])
    embed_to_file(pixel_embedder(), both, tmp_path / "t.npy")
    source = feature_source(tmp_path / "t.npy")
    with pytest.raises(DataError, match=r"2 images are named 'x.bmp': '.*/a/x.bmp', '.*/b/x"):
        item_ids(source.names(), location=source.location)
