"""A server on a real socket, over a tiny network and a small index."""

import base64
import io
import threading
import time
from contextlib import closing, contextmanager

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from dino_app.server.app import create_app
from dino_app.server.uvicorn_server import Server, bound_socket, configured
from dino_app.store.interface import Item
from dino_app.store.opening import create_store
from dino_infer.embedding.embedder import Embedder
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone

KEY = "a-key-for-tests-0123456789"


@pytest.fixture(scope="session")
def embedder():
    torch.manual_seed(0)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    return Embedder(backbone, Preprocess(size=32), device="cpu", max_pixels=50_000_000)


@pytest.fixture(scope="session")
def dim(embedder):
    return embedder.feature_shape[0]


def filled_store(folder, dim):
    """Six items with unit vectors along the axes, in two classes."""
    store = create_store(folder, dim=dim, model={})
    store.upsert(
        [
            Item(
                id=f"{'ab'[i % 2]}/{i}.jpg",
                vector=np.eye(dim, dtype=np.float32)[i] + np.float32(0.1),
                metadata={"label": "cat" if i % 2 else "dog", "year": 2020 + i},
            )
            for i in range(6)
        ]
    )
    return store


@pytest.fixture
def store(tmp_path, dim):
    with closing(filled_store(tmp_path / "index", dim)) as store:
        yield store


@contextmanager
def served(app, *, settings=None, headers=None):
    """A client of the application behind a socket; ``client.server`` is uvicorn's."""
    service = app.state.service
    server = Server(configured(app, settings or service.settings, drain_s=3), load=service.load)
    listening = bound_socket("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        with httpx.Client(base_url=base, headers=headers, timeout=20, trust_env=False) as client:
            client.server = server
            yield client
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


@pytest.fixture
def client(embedder, store):
    with served(create_app(embedder, store)) as client:
        client.store = store
        yield client


@pytest.fixture(scope="session")
def steady(embedder, dim, tmp_path_factory):
    """As ``client``, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("steady") / "index"
    with (
        closing(filled_store(folder, dim)) as store,
        served(create_app(embedder, store)) as client,
    ):
        yield client


def picture_bytes(*, size=(40, 48), seed=0, format="PNG", **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def data_uri(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def code_of(answer):
    """The code of an error, after a check of its shape."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "code", "param", "request_id"}, error
    assert error["request_id"] == answer.headers["x-request-id"]
    return error["code"]


def until(condition, seconds=5):
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.005)
