"""Answers of searches: right, and bounded in bytes and time."""

import base64
import json
from functools import partial

import numpy as np
import pytest

from dino_app.server.app import create_app
from dino_app.server.responses import MAX_ANSWER_BYTES
from tests.app.server.conftest import HeavyStore, ask_beside_livez, code_of, served


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
