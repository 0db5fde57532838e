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
from dino_app.server.settings import Settings
from dino_app.server.uvicorn_server import Server, listen, uvicorn_config
from dino_app.store.interface import Found, Hit, Item, StoreInfo
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
    server = Server(uvicorn_config(app, settings or service.settings, drain_s=3), load=service.load)
    listening = listen("127.0.0.1", 0)
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


SMALL = Settings(
    max_body_mb=1, max_image_mb=0.5, max_megapixels=2, body_timeout_s=0.5, header_timeout_s=0.5
)


@pytest.fixture
def small(embedder, store):
    strict = Embedder(embedder.engine, embedder.preprocess, max_pixels=2_000_000)
    with served(create_app(strict, store, SMALL)) as client:
        client.store = store
        yield client
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200


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


LIVEZ_S = 0.1  # within which a process that has a core has to answer whatever else it does
TRIES = 6
SPIN_S = 0.05


def ask_beside_livez(client, ask):
    """The answer to ``ask()``, while /livez, asked all the time, keeps within its bound."""
    waits = []
    while len(waits) < TRIES:
        with _Pulse(client) as pulse:
            answer = ask()
        waits.append(pulse.longest_s / seconds_for_one())
        if waits[-1] < LIVEZ_S:
            return answer
    raise AssertionError(f"/livez took {min(waits):.3f} s at least")


def seconds_for_one():
    """How long a second of computing takes where other processes compute too."""
    start, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < SPIN_S:
        pass
    return max(1.0, (time.perf_counter() - start) / (time.thread_time() - used))


class _Pulse:
    """Asks /livez again and again in a thread, and remembers the longest wait."""

    def __init__(self, client):
        self._client, self.longest_s, self._stop = client, 0.0, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def _ask(self):
        with httpx.Client(base_url=self._client.base_url, timeout=20, trust_env=False) as own:
            own.get("/livez")
            while not self._stop.wait(0.005):
                start = time.perf_counter()
                assert own.get("/livez").status_code == 200
                self.longest_s = max(self.longest_s, time.perf_counter() - start)

    def __exit__(self, *error):
        self._stop.set()
        self._thread.join()


class HeavyStore:
    """A store whose items have as much metadata as they may, made up as they are asked for."""

    def __init__(self, dim, *, field="text", letters=65_000):
        self.dim, self.searches = dim, 0
        self._metadata = {field: "x" * letters}
        self._vector = np.full(dim, dim**-0.5, dtype=np.float32)

    def info(self):
        return StoreInfo(
            backend="faiss", dim=self.dim, rows=10_000, deleted=0, version="1", index="Flat",
            wanted_index="auto", recall_at_10=None, model={},
        )  # fmt: skip

    def search(self, vectors, *, k, filter=None, params=None, include=()):
        self.searches += len(vectors)
        hit = Hit(
            id="an/id.jpg", score=0.1234567,
            metadata=self._metadata if "metadata" in include else None,
            vector=self._vector if "vector" in include else None,
        )  # fmt: skip
        return Found([[hit] * k for _ in vectors], "1", True)

    def _unused(self, *args):
        raise NotImplementedError

    upsert = delete = get = thumbnail = count = items = snapshot = snapshots = _unused
    restore = close = _unused

    def page(self, *, after=None, limit=100, filter=None):
        first = 0 if after is None else int(after) + 1
        return [
            Item(id=f"{number:05d}", vector=self._vector, metadata=self._metadata)
            for number in range(first, min(first + limit, 1500))
        ]
