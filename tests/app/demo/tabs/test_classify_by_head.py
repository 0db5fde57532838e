"""The classify tab with a head: the probabilities of the library, for its own network alone."""

import numpy as np
import pytest

from dino_app.demo.tabs.classify_by_head import _told
from dino_app.demo.vectors import OtherNetwork, Vectors
from dino_infer.heads import LinearHead
from tests.app.demo.indexed import tiles


@pytest.fixture(scope="module")
def head(models):
    embedder = Vectors(models).embedder(models.names[0])
    weight = np.random.default_rng(0).normal(size=(7, embedder.feature_shape[0]))
    return LinearHead(
        weight=weight.astype(np.float32),
        bias=np.zeros(7, np.float32),
        classes=("*a*", "b", "c", "d", "e", "f", "g"),
        made_by=embedder.description(),
    )


def test_the_tab_tells_the_probabilities_of_the_library(models, head):
    picture = tiles()["cat/2.jpg"]
    vector = Vectors(models).vector(picture, name=models.names[0], made=head.made_by, what="head")
    classes, told = _told(head, vector)
    shares = dict(zip(head.classes, head.predict_proba(vector[None])[0].tolist(), strict=True))
    assert len(classes) == 5 and classes == {name: shares[name] for name in classes}
    winner = max(shares, key=shares.__getitem__)
    assert next(iter(classes)) == winner == head.predict(vector[None])[0]
    assert f"{100 * shares[winner]:.0f} %" in told


def test_another_network_is_refused_by_the_name_of_the_head(models, head):
    with pytest.raises(OtherNetwork, match="This head was made with another network.*Choose"):
        Vectors(models).vector(
            tiles()["cat/2.jpg"], name=models.names[1], made=head.made_by, what="head"
        )
