"""Answers of searches: right, and bounded in bytes and time."""

import base64
import json
from functools import partial

import numpy as np
import pytest

from dino_app.server.app import create_app
from dino_app.server.responses import MAX_ANSWER_BYTES
from tests.app.server.conftest import (
    HeavyStore,
    ask_beside_livez,
    code_of,
    data_uri,
    picture_bytes,
    served,
)

SAME = 1e-5  # float32 through JSON, and another batch


@pytest.fixture(scope="module")
def heavy(embedder, dim):
    store = HeavyStore(dim)
    with served(create_app(embedder, store)) as client:
        client.store = store
        yield client


def _batch(client, dim, *, count, **more):
    """Asks for so many searches; written beforehand, which would keep this process busy."""
    body = json.dumps({"searches": [{"vector": [1.0] * dim} | more] * count}).encode()
    headers = {"Content-Type": "application/json"}
    return partial(client.post, "/v1/search:batch", content=body, headers=headers, timeout=60)


@pytest.mark.parametrize("include", [["vector"], ["metadata"], []], ids=str)
def test_a_batch_whose_answer_would_be_enormous_is_refused_before_any_search(heavy, dim, include):
    before = heavy.store.searches
    answer = ask_beside_livez(heavy, _batch(heavy, dim, count=256, k=1000, include=include))
    assert (answer.status_code, code_of(answer)) == (413, "answer_too_large")
    assert heavy.store.searches == before


def test_the_largest_answer_with_vectors_keeps_nothing_waiting(heavy, dim):
    answer = ask_beside_livez(heavy, _batch(heavy, dim, count=12, k=1000, include=["vector"]))
    assert answer.status_code == 200, answer.text
    assert MAX_ANSWER_BYTES / 2 < len(answer.content) <= MAX_ANSWER_BYTES
    results = answer.json()["results"]
    assert [len(one["results"]) for one in results] == [1000] * 12
    assert len(results[-1]["results"][-1]["vector"]) == dim


@pytest.mark.parametrize(("count", "k"), [(1, 1000), (100, 10), (256, 600)])
def test_metadata_count_by_their_bytes(heavy, dim, count, k):
    before = heavy.store.searches
    answer = ask_beside_livez(heavy, _batch(heavy, dim, count=count, k=k))
    assert (answer.status_code, code_of(answer)) == (413, "answer_too_large")
    assert len(answer.content) < 1000
    assert heavy.store.searches - before <= 200 * 6, "no more than what is in memory at once"


def test_long_base64_of_many_vectors_keeps_nothing_waiting(steady, dim):
    text = base64.b64encode(np.eye(dim, dtype="<f4")[4].tobytes()).decode() + " " * 240_000
    answer = ask_beside_livez(steady, _batch(steady, dim, count=60, vector=text, k=1))
    assert answer.status_code == 200, answer.text
    assert {one["results"][0]["id"] for one in answer.json()["results"]} == {"a/4.jpg"}


def test_a_batch_holds_no_more_images_than_a_request_may(steady):
    answer = steady.post("/v1/search:batch", json={"searches": [{"image": "AAAA"}] * 33})
    assert (answer.status_code, code_of(answer)) == (413, "too_many_images")


def test_a_search_by_vector_finds_the_nearest_first(steady, dim):
    vector = np.eye(dim)[2].tolist()
    body = steady.post("/v1/search", json={"vector": vector, "k": 3}).json()
    assert body["results"][0]["id"] == "a/2.jpg"
    assert body["results"][0]["metadata"] == {"label": "dog", "year": 2022}
    assert not any("vector" in result for result in body["results"])
    assert body["exact"] and body["snapshot"] and len(body["results"]) == 3
    scores = [result["score"] for result in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert set(body["timing_ms"]) == {"subject", "search", "total"}


def test_a_vector_may_come_as_base64(steady, dim):
    text = base64.b64encode(np.eye(dim, dtype="<f4")[4].tobytes()).decode()
    body = steady.post("/v1/search", json={"vector": text, "k": 1}).json()
    assert body["results"][0]["id"] == "a/4.jpg"


def test_a_search_by_image_works_as_json_and_as_a_form(client):
    picture = picture_bytes(format="JPEG")
    client.put("/v1/items/me", files={"file": ("../../x.jpg", picture)})
    by_json = client.post("/v1/search", json={"image": data_uri(picture), "k": 2}).json()
    form = {"k": "2", "include": '["metadata"]'}
    by_form = client.post("/v1/search", files={"file": picture}, data=form).json()
    assert by_json["results"][0]["id"] == by_form["results"][0]["id"] == "me"
    assert by_json["results"][0]["score"] == pytest.approx(1, abs=SAME)


def test_a_search_by_id_leaves_the_item_out(steady):
    body = steady.post("/v1/search", json={"id": "a/0.jpg", "k": 10}).json()
    assert len(body["results"]) == 5
    assert "a/0.jpg" not in [result["id"] for result in body["results"]]


def test_a_filter_and_what_to_include_are_kept(steady, dim):
    asked = {
        "vector": [1.0] * dim, "k": 10, "filter": {"label": "cat", "year": {"$gte": 2022}},
        "include": ["vector"],
    }  # fmt: skip
    results = steady.post("/v1/search", json=asked).json()["results"]
    assert sorted(result["id"] for result in results) == ["b/3.jpg", "b/5.jpg"]
    assert all("metadata" not in r and len(r["vector"]) == dim for r in results)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"k": 0}, 422),
        ({"k": -1}, 422),
        ({"k": 10**9}, 422),
        ({"k": 1.5}, 422),
        ({"vector": [1.0, 2.0]}, 400),
        ({"vector": [0.0] * 64}, 400),
        ({"vector": [1e300] * 63}, 400),
        ({"vector": "AAAA"}, 400),
        ({"vector": "AAA"}, 400),
        ({"id": "a/0.jpg"}, 422),
        ({"vector": None, "id": "none"}, 404),
        ({"vector": None}, 422),
        ({"filter": {"$what": 1}}, 400),
        ({"filter": {"year": {"$gt": True}}}, 400),
        ({"filter": [1]}, 422),
        ({"include": ["thumbnail"]}, 422),
        ({"params": {"ef": 0}}, 422),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(steady, dim, change, status):
    answer = steady.post("/v1/search", json={"vector": [1.0] * dim} | change)
    assert answer.status_code == status, answer.text
    code_of(answer)


def test_a_batch_gives_each_search_its_own_answer(steady, dim):
    searches = [{"vector": np.eye(dim)[i].tolist(), "k": i % 2 + 1} for i in range(6)]
    searches.append({"id": "a/0.jpg", "k": 1, "filter": {"label": "dog"}})
    results = steady.post("/v1/search:batch", json={"searches": searches}).json()["results"]
    found = [one["results"][0]["id"] for one in results[:6]]
    assert found == ["a/0.jpg", "b/1.jpg", "a/2.jpg", "b/3.jpg", "a/4.jpg", "b/5.jpg"]
    assert [len(one["results"]) for one in results] == [1, 2, 1, 2, 1, 2, 1]
