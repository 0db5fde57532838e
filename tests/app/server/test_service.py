"""Much at once: batches, full queues, deadlines, clients that go; no index, and only reading."""

import gc
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from dino_app.server.app import create_app
from dino_app.server.settings import Settings
from dino_infer.errors import CheckpointError
from tests.app.server.conftest import (
    code_of,
    data_uri,
    picture_bytes,
    seconds_for_one,
    served,
    until,
)

FAST_S = 0.05  # within which a refusal must come


class SlowEmbedder:
    """An embedder whose network waits for ``gate`` and remembers its batches."""

    def __init__(self, embedder):
        self.engine, self.preprocess = embedder.engine, embedder.preprocess
        self.device = torch.device("cpu")
        self.gate = threading.Event()
        self.gate.set()
        self.batches, self.fails = [], False
        self.decoded, self.description = embedder.decoded, embedder.description

    def features(self, pixels):
        self.batches.append(len(pixels))
        assert self.gate.wait(20)
        if self.fails:
            raise CheckpointError("features are not finite")
        rows = np.ones((len(pixels), 4), dtype=np.float32)
        rows[:, 0] = [float(one.float().mean()) for one in pixels]
        return rows


@pytest.fixture
def slow(embedder):
    return SlowEmbedder(embedder)


@pytest.fixture
def calm():
    """Limits under which a little is much."""
    return Settings(max_queue=4, embed_threads=1, max_batch=8, request_timeout_s=10)


def _ask(client, seed=0):
    asked = {"model": "vit_micro", "input": data_uri(picture_bytes(seed=seed))}
    return client.post("/v1/embeddings", json=asked)


@contextmanager
def _working(app, slow):
    """A server whose network holds a first request: its client, a pool to ask from, the request."""
    with served(app) as client, ThreadPoolExecutor(9) as pool:
        slow.gate.clear()
        slow.batches.clear()
        first = pool.submit(_ask, client)
        until(lambda: slow.batches)
        yield client, pool, first


def test_requests_that_wait_together_share_a_batch_and_get_their_own_rows(slow, embedder):
    app = create_app(slow, None, Settings(embed_threads=1, max_queue=64))
    with _working(app, slow) as (client, pool, first):
        rest = [pool.submit(_ask, client, seed) for seed in range(1, 9)]
        until(lambda: app.state.service._embed.depth == 8)
        slow.gate.set()
        rows = [one.result().json()["data"][0]["embedding"][0] for one in [first, *rest]]
    assert slow.batches == [1, 8]
    means = [float(embedder.decoded(picture_bytes(seed=seed)).float().mean()) for seed in range(9)]
    np.testing.assert_allclose(rows, means, rtol=1e-6)


def test_an_image_that_comes_alone_waits_for_no_other(slow):
    with served(create_app(slow, None, Settings(batch_wait_ms=20_000))) as client:
        start = time.perf_counter()
        assert _ask(client).status_code == 200
        assert time.perf_counter() - start < 10


def test_a_full_queue_answers_429_at_once_and_recovers(slow, calm):
    app = create_app(slow, None, calm)
    with _working(app, slow) as (client, pool, first):
        waiting = [first, *(pool.submit(_ask, client, seed) for seed in range(1, 5))]
        until(lambda: app.state.service._embed.depth == 4)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            refused = _ask(client, 9)
            times.append(time.perf_counter() - start)
            assert (refused.status_code, code_of(refused)) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
        assert min(times) < FAST_S * seconds_for_one()
        slow.gate.set()
        assert [one.result().status_code for one in waiting] == [200] * 5
        assert _ask(client).status_code == 200
        assert 'dino_rejected_total{reason="queue_full"} 5.0' in client.get("/metrics").text


def test_a_request_that_takes_too_long_ends_with_504(slow):
    settings = Settings(request_timeout_s=0.2, embed_threads=1)
    app = create_app(slow, None, settings)
    with served(app) as client:
        slow.gate.clear()
        late = _ask(client)
        assert (late.status_code, code_of(late)) == (504, "deadline")
        also_late = _ask(client)
        assert also_late.status_code == 504
        assert app.state.service._embed.depth == 0
        slow.batches.clear()
        slow.gate.set()
        assert _ask(client).status_code == 200
        assert slow.batches == [1], "the network worked for requests that were given up"


def test_a_client_that_goes_frees_its_place(slow, calm):
    app = create_app(slow, None, calm)
    with _working(app, slow) as (client, _, first):
        body = client.build_request(
            "POST", "/v1/embeddings",
            json={"model": "vit_micro", "input": data_uri(picture_bytes())},
        ).content  # fmt: skip
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection((client.base_url.host, client.base_url.port)) as gone:
            gone.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            until(lambda: app.state.service._embed.depth == 1)
        until(lambda: app.state.service._embed.depth == 0)
        until(lambda: app.state.service.load.requests == 1)
        slow.gate.set()
        assert first.result().status_code == 200
        assert slow.batches == [1]


def test_a_failing_network_is_424_and_the_server_goes_on(slow, calm):
    with served(create_app(slow, None, calm)) as client:
        slow.fails = True
        failed = _ask(client)
        assert (failed.status_code, code_of(failed)) == (424, "model_failed")
        slow.fails = False
        assert _ask(client).status_code == 200
        assert client.get("/readyz").status_code == 200


NO_IMAGE = b"\x89PNG" * 1000
REFUSED = {
    "/v1/embeddings": {"model": "vit_micro", "input": [data_uri(NO_IMAGE)] * 2},
    "/v1/search": {"image": data_uri(NO_IMAGE)},
    "/v1/attention": {"image": data_uri(NO_IMAGE)},
    "/v1/items/x": {"image": data_uri(NO_IMAGE)},
    "/v1/items": {"items": [{"id": "x", "image": data_uri(NO_IMAGE)}]},
}


@pytest.mark.parametrize("path", REFUSED)
def test_a_refused_body_is_freed_without_a_garbage_collection(client, path):
    def ask(key):
        for headers in ({}, {"Idempotency-Key": key}):
            method = "PUT" if path == "/v1/items/x" else "POST"
            answer = client.request(method, path, json=REFUSED[path], headers=headers)
            assert "expected an image" in answer.text

    ask("one")
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        ask("another")
        time.sleep(FAST_S)  # the server may still be in its last lines
        gc.collect()
        assert not [one for one in gc.garbage if isinstance(one, BaseException)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_too_many_requests_at_once_are_refused_unread(slow):
    settings = Settings(max_requests=1, embed_threads=1)
    app = create_app(slow, None, settings)
    with _working(app, slow) as (client, _, first):
        refused = _ask(client, 1)
        assert (refused.status_code, code_of(refused)) == (429, "too_many_requests")
        slow.gate.set()
        assert first.result().status_code == 200
        assert _ask(client).status_code == 200


def test_while_it_drains_readyz_says_so_and_work_is_finished(slow, calm):
    app = create_app(slow, None, calm)
    with _working(app, slow) as (client, _, first):
        app.state.service.load.draining = True
        ready = client.get("/readyz")
        assert ready.status_code == 503 and "draining" in ready.json()["checks"]
        assert client.get("/livez").status_code == 200
        client.server.should_exit = True
        time.sleep(0.2)
        slow.gate.set()
        assert first.result().status_code == 200


def test_one_and_true_are_different_filters_in_one_batch(client, dim):
    vector = [1.0] * dim
    for id, value in (("number", 1), ("truth", True)):
        client.put(f"/v1/items/{id}", json={"vector": vector, "metadata": {"v": value}})
    searches = [{"vector": vector, "filter": {"v": value}} for value in (1, True, 1, True)]
    results = client.post("/v1/search:batch", json={"searches": searches}).json()["results"]
    found = [[hit["id"] for hit in one["results"]] for one in results]
    assert found == [["number"], ["truth"], ["number"], ["truth"]]


def test_without_an_index_its_endpoints_say_so(embedder):
    with served(create_app(embedder)) as client:
        asked = {"model": "vit_micro", "input": data_uri(picture_bytes())}
        assert client.post("/v1/embeddings", json=asked).status_code == 200
        for method, path, body in [
            ("POST", "/v1/search", {"id": "a"}), ("GET", "/v1/items", None),
            ("POST", "/v1/items", {"items": [{"id": "a", "vector": [1.0]}]}),
            ("GET", "/v1/items/a", None), ("GET", "/v1/snapshots", None),
            ("POST", "/v1/classify", {"id": "a"}), ("DELETE", "/v1/items/a", None),
        ]:  # fmt: skip
            answer = client.request(method, path, json=body)
            assert (answer.status_code, code_of(answer)) == (404, "no_index"), path
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/info").json()["index"] is None


def test_a_server_that_only_reads_refuses_writes(embedder, store):
    with served(create_app(embedder, store, read_only=True)) as client:
        answers = [
            client.put("/v1/items/x", json={"vector": [1.0] * store.info().dim}),
            client.delete("/v1/items/a/0.jpg"),
            client.post("/v1/snapshots", json={"name": "x"}),
        ]
        assert [code_of(answer) for answer in answers] == ["read_only"] * 3
        assert client.get("/v1/items/a/0.jpg").status_code == 200
