# ruff: noqa: F811 - fixtures are imported
"""The clients against a real server: every method, errors, busy servers and time-outs."""

import asyncio
import http.server
import io
import json
import threading
import time
from contextlib import contextmanager

import jaxtyping
import numpy as np
import pytest
from PIL import Image

from dino_app.client import AsyncClient, Client, NewItem, ServerError
from dino_app.server.app import create_app
from dino_app.server.auth import Keys
from tests.app.server.conftest import (  # noqa: F401 - fixtures
    KEY,
    client,
    dim,
    embedder,
    picture_bytes,
    served,
    store,
)

SAME = 1e-5  # float32 through JSON, and another batch


@contextmanager
def both(base_url, **options):
    """The clients behind one interface: the asynchronous one runs a loop for each call."""

    class Awaited:
        def __getattr__(self, name):
            async def call(*args, **kwargs):
                async with AsyncClient(base_url, **options) as client:
                    return await getattr(client, name)(*args, **kwargs)

            return lambda *args, **kwargs: asyncio.run(call(*args, **kwargs))

    with Client(base_url, **options) as client:
        yield client, Awaited()


@pytest.fixture(params=["waiting", "awaited"])
def dino(request, client):
    with both(str(client.base_url)) as clients:
        yield clients[request.param == "awaited"]


def test_images_become_the_vectors_of_the_embedder(dino, embedder, tmp_path):
    content = picture_bytes(seed=3)
    picture = Image.open(io.BytesIO(content))
    path = tmp_path / "a.png"
    path.write_bytes(content)
    vectors = dino.embed([path, str(path), content, picture])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, np.repeat(embedder([picture]), 4, axis=0), atol=SAME)
    np.testing.assert_allclose(dino.embed(path), vectors[0], atol=SAME)


def test_what_is_put_in_is_found_and_deleted(dino, embedder):
    content = picture_bytes(seed=4)
    vector = embedder([Image.open(io.BytesIO(content))])[0]
    answer = dino.upsert(
        [
            NewItem(id="new/1.png", image=content, metadata={"label": "new"}),
            NewItem(id="new/2.png", vector=-vector),
        ]
    )
    assert [item.status for item in answer.items] == ["ok", "ok"]
    for subject in (content, vector):
        found = dino.search(subject, k=1, include=["metadata", "vector"])
        assert found.results[0].id == "new/1.png" and found.results[0].score > 1 - SAME
        assert found.results[0].metadata["label"] == "new"
        np.testing.assert_allclose(
            found.results[0].vector, vector / np.linalg.norm(vector), atol=SAME
        )
    near = dino.search(id="new/1.png", k=9, filter={"label": {"$exists": True}})
    assert "new/1.png" not in [result.id for result in near.results]
    assert near.results[0].vector is None
    assert dino.delete(["new/1.png", "new/2.png", "none"]).deleted == ["new/1.png", "new/2.png"]
    with pytest.raises(TypeError, match="exactly one of an image and a vector"):
        dino.upsert([NewItem(id="neither")])
    with pytest.raises(TypeError, match="exactly one of a subject"):
        dino.search()


def test_classes_attention_and_facts_come_as_the_server_has_them(dino, dim):
    classes = dino.classify(id="a/0.jpg", k=3)
    assert classes.label in ("cat", "dog") and len(classes.neighbors) == 3
    assert dino.attention(picture_bytes(), heads="mean").size[0] > 16
    info = dino.info()
    assert (info.model, info.dim) == ("vit_micro", dim)


def test_refusals_say_why(dino):
    with pytest.raises(ServerError, match="415: .*") as caught:
        dino.embed([b"no picture"])
    assert (caught.value.status, caught.value.code) == (415, "image_unsupported")
    with pytest.raises(ServerError, match="400: a vector has .* values here, .*; got 2"):
        dino.search(np.ones(2, np.float32))
    with pytest.raises(ValueError, match="an image or several, got none"):
        dino.embed([])


def test_what_is_neither_image_nor_vector_is_named(dino):
    jaxtyping.config.update("jaxtyping_disable", True)  # as it is for those who install this
    try:
        with pytest.raises(TypeError, match="expected an image .*a NumPy array.*, got list"):
            dino.search([1.0, 2.0])
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_keys_open_the_server(embedder, store):
    with served(create_app(embedder, store, keys=Keys([KEY]))) as server:
        with Client(str(server.base_url), key=KEY) as dino:
            assert dino.info().dim == store.info().dim
        with Client(str(server.base_url)) as dino, pytest.raises(ServerError) as caught:
            dino.info()
        assert caught.value.status == 401


@contextmanager
def answering(answers, *, delay_s=0.0):
    """A server that gives these answers in turn: (status, headers, body)."""
    left, asked = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(time.monotonic())
            time.sleep(delay_s)
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


GOOD = json.dumps(
    {"version": "1", "model": "m", "dim": 3, "description": {}, "limits": {}, "read_only": False,
     "index": None, "head": None}
).encode()  # fmt: skip
BUSY = b'{"error": {"message": "64 images wait", "code": "busy"}}'


@pytest.mark.parametrize("kind", [0, 1])
def test_a_busy_server_is_asked_again_when_it_says(kind):
    answers = [(429, {"Retry-After": "1"}, BUSY), (503, {}, b"proxy"), (200, {}, GOOD)]
    with answering(answers) as (url, asked), both(url) as clients:
        assert clients[kind].info().model == "m"
    first, second, third = asked
    assert second - first >= 1 and third - second >= 0.9


@pytest.mark.parametrize("kind", [0, 1])
def test_a_server_that_stays_busy_is_given_up(kind):
    with answering([(429, {}, BUSY)]) as (url, asked), both(url, retries=1) as clients:
        with pytest.raises(ServerError, match="429: 64 images wait") as caught:
            clients[kind].info()
        assert caught.value.code == "busy" and len(asked) == 2


@pytest.mark.parametrize("kind", [0, 1])
def test_a_server_that_is_busy_for_long_is_not_waited_for(kind):
    answers = [(503, {"Retry-After": "3600"}, BUSY), (200, {}, GOOD)]
    with answering(answers) as (url, asked), both(url) as clients:
        with pytest.raises(ServerError, match="503: 64 images wait; try again after 3600 s"):
            clients[kind].info()
        assert len(asked) == 1


@pytest.mark.parametrize("kind", [0, 1])
def test_silence_and_absence_are_named(kind):
    with answering([(200, {}, GOOD)], delay_s=0.5) as (url, _), both(url, timeout_s=0.1) as clients:
        with pytest.raises(ServerError, match="in time") as caught:
            clients[kind].info()
        assert caught.value.code == "timeout"
    with both(url) as clients, pytest.raises(ServerError, match="is dino-serve running there"):
        clients[kind].info()
    with both("localhost:1") as clients, pytest.raises(ServerError, match="an address like http"):
        clients[kind].info()
