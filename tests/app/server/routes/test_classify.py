"""Votes of neighbours, and the classes of a head."""

from contextlib import closing
from functools import partial

import numpy as np
import pytest

from dino_app.server.app import create_app
from dino_infer.heads import LinearHead
from tests.app.server.conftest import (
    HeavyStore,
    ask_beside_livez,
    code_of,
    data_uri,
    filled_store,
    picture_bytes,
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


@pytest.fixture(scope="module")
def head(embedder, dim):
    rng = np.random.default_rng(0)
    return LinearHead(
        weight=rng.normal(size=(30, dim)).astype(np.float32),
        bias=np.zeros(30, np.float32),
        classes=tuple(f"class {i}" for i in range(30)),
        made_by=embedder.description(),
    )


@pytest.fixture(scope="module")
def judge(embedder, dim, head, tmp_path_factory):
    """A client of a server with an index and a head."""
    folder = tmp_path_factory.mktemp("judge") / "index"
    with (
        closing(filled_store(folder, dim)) as store,
        served(create_app(embedder, store, head=head)) as client,
    ):
        yield client


def test_a_head_classifies_as_in_the_library_and_needs_no_index(embedder, head):
    picture = picture_bytes()
    with served(create_app(embedder, head=head)) as client:
        body = client.post("/v1/classify", json={"image": data_uri(picture), "k": 3}).json()
        assert client.get("/v1/info").json()["head"] == {"classes": 30}
    shares = head.predict_proba(embedder([picture]))[0]
    best = np.argsort(-shares)[:3]
    assert body["method"] == "linear" and (body["neighbors"], body["snapshot"]) == ([], None)
    assert body["label"] == body["probabilities"][0]["label"] == head.classes[best[0]]
    assert [one["label"] for one in body["probabilities"]] == [head.classes[i] for i in best]
    told = [one["probability"] for one in body["probabilities"]]
    np.testing.assert_allclose(told, shares[best], rtol=1e-4)


def test_the_head_answers_unless_the_vote_is_asked_for(judge):
    asked = {"image": data_uri(picture_bytes())}
    assert judge.post("/v1/classify", json=asked).json()["method"] == "linear"
    vote = judge.post("/v1/classify", json=asked | {"method": "knn"}).json()
    assert vote["method"] == "knn" and vote["label"] in ("cat", "dog") and vote["neighbors"]
    form = judge.post("/v1/classify", files={"file": picture_bytes()}, data={"method": "knn"})
    assert form.json()["method"] == "knn"


def test_a_head_takes_images_alone(judge, dim):
    for subject in ({"id": "a/0.jpg"}, {"vector": [1.0] * dim}):
        answer = judge.post("/v1/classify", json=subject)
        assert (answer.status_code, code_of(answer)) == (400, "image_needed")
        assert judge.post("/v1/classify", json=subject | {"method": "knn"}).status_code == 200


def test_a_server_without_head_says_how_it_gets_one(steady):
    answer = steady.post(
        "/v1/classify", json={"image": data_uri(picture_bytes()), "method": "linear"}
    )
    assert (answer.status_code, code_of(answer)) == (404, "no_head")
    assert "dino-serve --head FILE" in answer.json()["error"]["message"]
    assert steady.get("/v1/info").json()["head"] is None
