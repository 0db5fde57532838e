"""Votes of neighbours."""

from functools import partial

import numpy as np
import pytest

from dino_app.server.app import create_app
from tests.app.server.conftest import (
    HeavyStore,
    ask_beside_livez,
    code_of,
    served,
)


def test_long_texts_are_no_classes(embedder, dim):
    with served(create_app(embedder, HeavyStore(dim, field="label"))) as client:
        asked = {"vector": [1.0] * dim, "k": 1000}
        answer = ask_beside_livez(client, partial(client.post, "/v1/classify", json=asked))
    assert (answer.status_code, code_of(answer)) == (413, "answer_too_large")


def test_a_class_is_the_vote_of_the_neighbours(steady, dim):
    asked = {"vector": (np.eye(dim)[1] + 0.5 * np.eye(dim)[0]).tolist(), "k": 2}
    body = steady.post("/v1/classify", json=asked | {"temperature": 0.1}).json()
    assert body["label"] == "cat"
    assert [n["id"] for n in body["neighbors"]] == ["b/1.jpg", "a/0.jpg"]
    near, far = (n["score"] for n in body["neighbors"])
    share = 1 / (1 + np.exp((far - near) / 0.1))
    assert body["probabilities"][0]["probability"] == pytest.approx(share, rel=1e-4)
    other = steady.post("/v1/classify", json=asked | {"label": "nothing"}).json()
    assert other["label"] is None and other["neighbors"] == []


def test_of_equally_near_items_the_class_of_the_first_wins(client, dim):
    items = [
        {"id": id, "vector": np.eye(dim)[2].tolist(), "metadata": {"twin": label}}
        for id, label in (("y/0.jpg", "zebra"), ("y/1.jpg", "ant"))
    ]
    assert client.post("/v1/items", json={"items": items}).status_code == 200
    for k in (1, 2):
        asked = {"vector": np.eye(dim)[2].tolist(), "k": k, "label": "twin"}
        body = client.post("/v1/classify", json=asked).json()
        assert (body["label"], body["neighbors"][0]["id"]) == ("zebra", "y/0.jpg")
