"""A demo with an index and labelled features, made of a few squares of photos."""

import pytest
from PIL import Image

from tests.browser.demo_server import demo_server

HOSTILE = "cat/<img src=x onerror=alert(1)>.jpg"


def open_tab(page, name):
    """Choose a tab; on a phone their row is scrolled."""
    page.get_by_role("tab", name=name, exact=True).click()


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """A folder with a folder of PNGs for each class."""
    from tests.app.demo.indexed import tiles

    folder = tmp_path_factory.mktemp("squares")
    for name, picture in tiles().items():
        path = folder / name.replace(".jpg", ".png")
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    return folder


@pytest.fixture(scope="session")
def indexed_url(weights_folder, squares, tmp_path_factory):
    """A demo with the networks ``early`` and ``late``, and vectors of ``early`` to compare with."""
    from dino_app.store.interface import Item
    from dino_infer.embedding.embedder import Embedder
    from dino_infer.features.job import embed_to_file
    from dino_infer.sources.image_list import list_images
    from tests.app.demo.indexed import small_index

    early, late = (weights_folder / f"{name}.safetensors" for name in ("early", "late"))
    folder = tmp_path_factory.mktemp("indexed")
    embedder = Embedder.load(early, device="cpu", precision="fp32")
    store = small_index(folder / "photos.index", embedder)
    last = store.get(["cat/0.jpg"])[0]
    store.upsert([Item(id=HOSTILE, vector=last.vector, metadata={"label": "<b>cat</b>"})])
    store.close()
    embed_to_file(embedder, list_images([squares]), folder / "squares.npy")
    with demo_server(
        *("--weights", str(early), "--weights", str(late)),
        *("--index", str(folder / "photos.index"), "--features", str(folder / "squares.npy")),
    ) as address:
        yield address
