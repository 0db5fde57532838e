"""Images on their way into an index: new, changed, moved, and known under another name."""

import os
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from dino_app.indexing.building import fill, item_ids
from dino_app.indexing.from_images import image_items, without_stored_files
from dino_app.store.faiss_store import FaissStore
from dino_infer.sources.image_list import list_images
from tests.infer.pixel_engine import pixel_embedder


def save(path, seed):
    """An uncompressed picture: all of them have one size, and here also one time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(10**18, 10**18))


@pytest.fixture
def store(tmp_path):
    with closing(FaissStore.create(tmp_path / "x", dim=16, model={})) as made:
        yield made


@pytest.fixture
def cameras(tmp_path):
    """Two folders of files with the same names, sizes and times."""
    for seed, name in enumerate(("cam0/0.bmp", "cam0/1.bmp", "cam1/0.bmp", "cam1/1.bmp")):
        save(tmp_path / name, seed)
    return tmp_path


def ids_of(images):
    return item_ids((images.name(i) for i in range(len(images))), location=images.location)


def add(store, *sources):
    """How many images were embedded, and how many items written."""
    images = without_stored_files(list_images(sources), store)
    embedder, embedded = pixel_embedder(), []

    def batches(some):
        embedded.extend(some.name(i) for i in range(len(some)))
        return type(embedder).batches(embedder, some)

    embedder.batches = batches
    items = image_items(embedder, images, ids_of(images), known=store, thumbnails=16)
    stored = fill(items, lambda: store, total=len(images)).stored
    return len(embedded), stored


def test_images_that_were_stored_are_not_embedded_again(store, cameras):
    assert add(store, cameras / "cam0") == (2, 2)
    assert add(store, cameras / "cam0") == (0, 0)
    save(cameras / "cam0" / "2.bmp", 5)
    os.utime(cameras / "cam0" / "1.bmp", ns=(2 * 10**18, 2 * 10**18))
    assert add(store, cameras / "cam0") == (2, 2)


def test_a_folder_that_was_moved_is_known_by_its_content(store, cameras):
    add(store, cameras / "cam0")
    (cameras / "cam0").rename(cameras / "moved")
    assert add(store, cameras / "moved") == (0, 0)
    assert add(store, cameras / "cam1") == (2, 2)


def test_files_that_are_stored_under_another_name_do_not_count(store, cameras, caplog):
    add(store, cameras / "cam0")
    links = cameras / "links"
    links.mkdir()
    (links / "link.bmp").symlink_to(cameras / "cam0" / "1.bmp")
    save(links / "own.bmp", 7)
    with caplog.at_level("INFO", logger="dino_app"):
        assert add(store, links) == (1, 1)
    assert "1 of 2 images are files that the index has under another name" in caplog.text
    assert "link.bmp', which is '1.bmp'" in caplog.text
    assert add(store, cameras / "cam0" / "1.bmp") == (0, 0)
    (cameras / "all").mkdir()
    (cameras / "all" / "c").symlink_to(cameras / "cam0", target_is_directory=True)
    assert add(store, cameras / "all") == (0, 0)
    assert store.count() == 3


def test_members_of_a_tar_are_known_through_links_to_it(store, cameras):
    import tarfile

    with tarfile.open(cameras / "a.tar", "w") as tar:
        tar.add(cameras / "cam0" / "0.bmp", "0.bmp")
    assert add(store, cameras / "a.tar") == (1, 1)
    (cameras / "b.tar").symlink_to("a.tar")
    assert add(store, cameras / "b.tar") == (0, 0)
