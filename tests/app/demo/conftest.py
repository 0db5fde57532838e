"""What the tests of several tabs share: three tiny networks, and an index that the first made."""

import pytest

from dino_app.demo.models import Models
from dino_app.demo.vectors import Vectors
from tests.app.demo.indexed import small_index
from tests.app.demo.tiny import weights_file


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    weights = [
        weights_file(folder),
        weights_file(folder, seed=1),
        weights_file(folder, "resnet_micro"),
    ]
    return Models(weights, "cpu")


@pytest.fixture(scope="module")
def store(models, tmp_path_factory):
    embedder = Vectors(models).embedder(models.names[0])
    store = small_index(tmp_path_factory.mktemp("index") / "photos.index", embedder)
    yield store
    store.close()
