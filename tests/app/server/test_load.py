"""Much at once: batches, full queues, deadlines, clients that go, an orderly end."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from dino_app.server.app import create_app
from dino_app.server.batching import Batcher, together
from dino_app.server.errors import BusyError
from dino_app.server.metrics import Metrics
from dino_app.server.settings import Settings
from dino_infer.errors import CheckpointError
from tests.app.server.conftest import code_of, data_uri, picture_bytes, served, until

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
        assert min(times) < FAST_S
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


def _batcher(run, **options):
    return Batcher(run, name="test", metrics=Metrics(), **options)


def test_free_workers_share_what_waits():
    sizes = []

    def run(items):
        sizes.append(len(items))
        time.sleep(0.05)
        return items

    async def main():
        batcher = _batcher(run, workers=2, max_batch=8)
        batcher.start()
        answers = await together([batcher(i) for i in range(8)])
        await batcher.stop()
        return answers

    assert asyncio.run(main()) == list(range(8))
    assert sizes == [4, 4]


def test_a_batch_waits_for_others_but_not_longer_than_it_may():
    sizes = []

    def run(items):
        sizes.append(len(items))
        return items

    async def main():
        batcher = _batcher(run, max_batch=2, max_wait_s=0.05)
        batcher.start()
        start = time.perf_counter()
        pair = asyncio.gather(batcher(1), batcher(2))
        await pair
        together_s = time.perf_counter() - start
        await batcher(3)
        alone_s = time.perf_counter() - start - together_s
        await batcher.stop()
        return together_s, alone_s

    together_s, alone_s = asyncio.run(main())
    assert sizes == [2, 1]
    assert together_s < 0.05 <= alone_s


def test_only_items_of_one_group_share_a_batch():
    batches = []

    def run(items):
        batches.append(items)
        return items

    async def main():
        batcher = _batcher(run, max_batch=8)
        batcher.start()
        await together([batcher(i, group=i % 2) for i in range(6)])
        await batcher.stop()

    asyncio.run(main())
    assert batches == [[0, 2, 4], [1, 3, 5]]


def test_a_stage_that_returns_too_few_answers_fails_them_and_goes_on():
    async def main():
        batcher = _batcher(lambda items: [])
        batcher.start()
        with pytest.raises(ValueError, match="zip"):
            await batcher(1)
        assert batcher.working
        await batcher.stop()

    asyncio.run(main())


def test_what_was_given_up_leaves_the_queue():
    async def main():
        gate = threading.Event()
        batcher = _batcher(lambda items: [gate.wait(5) for _ in items], max_waiting=1)
        batcher.start()
        running = asyncio.create_task(batcher(0))
        await asyncio.sleep(0.02)
        waiting = asyncio.create_task(batcher(1))
        await asyncio.sleep(0.02)
        with pytest.raises(BusyError):
            await batcher(2)
        waiting.cancel()
        await asyncio.sleep(0.02)
        assert batcher.depth == 0
        gate.set()
        assert await running
        await batcher.stop()

    asyncio.run(main())
