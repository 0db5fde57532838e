"""What attackers send: no crash, no hang, no 5xx, and nothing reaches what it should not."""

import asyncio
import base64
import io
import json
import socket
import threading
import time

import numpy as np
import pytest

from dino_app.server.app import create_app
from dino_app.server.fetching import fetch, is_public
from dino_app.server.routes.search import image_url
from dino_app.server.settings import Settings
from dino_app.store.interface import Item
from dino_infer.embedding.embedder import Embedder
from tests.app.server.bombs import other_bombs, png_bombs
from tests.app.server.conftest import code_of, data_uri, picture_bytes, served

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


@pytest.mark.parametrize(
    ("name", "bomb"), [*png_bombs(), *other_bombs()], ids=lambda value: str(value)[:25]
)
def test_a_bomb_is_refused_or_harmless(steady, name, bomb):
    start = time.perf_counter()
    asked = {"model": "vit_micro", "input": data_uri(bomb)}
    answer = steady.post("/v1/embeddings", json=asked)
    assert answer.status_code in ((200,) if "GIF" in name else (400, 413)), answer.text
    small = {"format": "npz", "size": "32"}
    assert steady.post("/v1/attention", files={"file": bomb}, data=small).status_code < 500
    assert time.perf_counter() - start < 10


def _sent(client, data, *, slowly=None, seconds=5):
    """What comes back for raw bytes until the server closes or says all it has to."""
    place = (client.base_url.host, client.base_url.port)
    with socket.create_connection(place, timeout=seconds) as connection:
        try:
            connection.sendall(data)
            for part in slowly or ():
                time.sleep(0.1)
                connection.sendall(part)
            got = b""
            while b"\r\n\r\n" not in got:
                part = connection.recv(65536)
                if not part:
                    break
                got += part
            return got
        except (ConnectionResetError, BrokenPipeError):
            return b"closed"


def _head(path, *fields):
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_body_is_counted_whatever_its_header_says(small):
    body = json.dumps({"model": "vit_micro", "input": "A" * 2_000_000})
    large = small.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    assert (large.status_code, code_of(large)) == (413, "body_too_large")
    chunk = b"10000\r\n" + b"A" * 65536 + b"\r\n"
    chunked = _sent(small, _head("/v1/search", "Transfer-Encoding: chunked") + chunk * 40)
    assert chunked == b"closed" or b" 413 " in chunked
    claimed = _sent(small, _head("/v1/search", "Content-Length: 99999999999999999999999999"))
    assert b" 413 " in claimed or b" 400 " in claimed
    for wrong in ("-5", "abc", "1e3", "5, 6"):
        assert b" 400 " in _sent(small, _head("/v1/search", f"Content-Length: {wrong}"))
    both = _head("/v1/search", "Content-Length: 5", "Transfer-Encoding: chunked")
    assert _sent(small, both + b"0\r\n\r\n")[9:10] == b"4"


def test_an_endless_body_is_cut_off(small):
    chunk = b"10000\r\n" + b"A" * 65536 + b"\r\n"
    start = time.perf_counter()
    _sent(small, _head("/v1/search", "Transfer-Encoding: chunked"), slowly=[chunk] * 60)
    assert time.perf_counter() - start < 5
    assert small.get("/metrics").status_code == 200


def test_a_slow_body_ends_with_408_and_a_slow_header_with_the_connection(small):
    slow = _sent(small, _head("/v1/search", "Content-Length: 1000"), slowly=[b"a"] * 10)
    assert slow == b"closed" or b" 408 " in slow
    start = time.perf_counter()
    assert _sent(small, b"GET /livez HTTP/1.1\r\nHost:", slowly=[b"x"] * 10) in (b"", b"closed")
    assert _sent(small, b"") == b""
    assert time.perf_counter() - start < 4


def test_an_idle_connection_and_a_large_header_are_closed(small):
    large = b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
    answer = _sent(small, large)
    assert answer == b"closed" or b" 4" in answer[:13]
    assert (
        b" 4" in _sent(small, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03 no http \r\n\r\n")[:13]
    )


def test_a_false_content_length_does_not_smuggle_a_request(small):
    inner = b"DELETE /v1/items/a%2F0.jpg HTTP/1.1\r\nHost: x\r\n\r\n"
    for fields in (("Content-Length: 0", f"Content-Length: {len(inner)}"),):
        assert b" 400 " in _sent(small, _head("/v1/search", *fields) + inner)
    assert small.get("/v1/items/a/0.jpg").status_code == 200


def test_forms_with_very_many_parts_or_none_are_refused(small):
    many = {f"f{i}": (f"{i}.png", b"x") for i in range(10_000)}
    fields = {f"f{i}": "x" for i in range(10_000)}
    whole = small.build_request("POST", "/v1/search", files=many)
    named = small.build_request("POST", "/v1/search", files={"file": b"x"}, data=fields)
    for request in (whole, named):
        request.read()
    for answer in (
        small.post("/v1/search", content=whole.content, headers=whole.headers),
        small.post("/v1/search", content=named.content, headers=named.headers),
        small.post("/v1/search", files=[("file", b"x"), ("file", b"y")]),
        small.post("/v1/search", files={"other": b"x"}),
        small.post("/v1/search", files={"file": b""}),
        small.post("/v1/search", content=b"x", headers={"Content-Type": "multipart/form-data"}),
        small.post(
            "/v1/search", content=b"--a\r\n" * 1000,
            headers={"Content-Type": "multipart/form-data; boundary=a"},
        ),
        small.post("/v1/search", content=b"x", headers={"Content-Type": "text/plain"}),
    ):  # fmt: skip
        assert answer.status_code in (400, 413, 422), answer.text
        code_of(answer)


def test_an_image_is_counted_before_it_is_decoded(small):
    large = "A" * 800_000
    asked = {"model": "vit_micro", "input": large}
    assert small.post("/v1/embeddings", json=asked).status_code == 413
    assert small.post("/v1/search", files={"file": b"\x89PNG" * 200_000}).status_code == 413
    many = picture_bytes(size=(1500, 1500), format="JPEG", quality=5)
    answer = small.post("/v1/search", files={"file": many})
    assert (answer.status_code, code_of(answer)) == (413, "image_too_large")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{", b"[" * 100_000, b'{"vector": ' + b"[" * 10_000,
        b'{"vector": [NaN], "k": 1}', b'{"vector": [Infinity]}', b'{"vector": [1e999]}',
        b'{"id": "\\ud800"}', b"\xff\xfe{}", b'{"id": "a", "id": "b"}', b'{"k": 1e400}',
        b'{"id": "a", "k": 99999999999999999999999999}', b'{"id": "' + b"a" * 3000 + b'"}',
        b'{"id": "a", "filter": ' + b'{"$not": ' * 10_000 + b"{}" + b"}" * 10_000 + b"}",
        b'{"id": "a", "filter": ' + b'{"$not": ' * 300 + b"{}" + b"}" * 300 + b"}",
        b'{"id": "a/0.jpg", "filter": {"$and": [' + b'{"x": 1},' * 9_999 + b'{"x": 1}]}}',
        b'{"id": "a/0.jpg", "filter": {"a\\u0000b": 1}}',
        b'{"id": "a/0.jpg", "filter": {"$or": []}, "params": {"exact": 1}}',
    ],
    ids=lambda body: body[:30],
)  # fmt: skip
def test_odd_json_is_refused(steady, body):
    headers = {"Content-Type": "application/json"}
    for path in ("/v1/search", "/v1/classify", "/v1/items", "/v1/search:batch", "/v1/embeddings"):
        answer = steady.post(path, content=body, headers=headers)
        assert answer.status_code in (200, 400, 404, 413, 422), (path, answer.text[:200])
        assert answer.status_code != 200 or path in ("/v1/search", "/v1/classify")
        assert len(answer.content) < 5000


def test_very_many_ids_are_refused(steady):
    answer = steady.post("/v1/items:delete", json={"ids": [str(i) for i in range(1_000_000)]})
    assert answer.status_code in (413, 422)
    twice = [{"id": "a", "vector": [1.0]}] * 2
    assert steady.post("/v1/items", json={"items": twice}).status_code == 400


@pytest.mark.parametrize(
    "vector", [[0.0], [1e-45], [3e38], [-0.0], [5e-324], [1.7e308]], ids=lambda v: str(v[0])
)
def test_odd_vectors_have_a_direction_or_are_refused(steady, dim, vector):
    answer = steady.post("/v1/search", json={"vector": vector * dim, "k": 1})
    assert answer.status_code == (200 if 0 < abs(vector[0]) < 1e300 else 400)
    if answer.status_code == 200:
        assert abs(answer.json()["results"][0]["score"]) <= 1.0001


ODD_IDS = [
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/x", "/etc/passwd", "//x",
    "C:\\windows\\win.ini", "a\u0000b", "\u202e", "..", ".", "a/../b", "a//b", "é\u0301", "😀",
    "thumbnail", "x/thumbnail", "?a=b#c", "a b+c", "<img src=x onerror=alert(1)>", "%", "%zz",
]  # fmt: skip


def test_an_id_is_only_a_name(client, dim):
    for id in ODD_IDS:
        path = image_url(id).removesuffix("/thumbnail")
        put = client.put(path, json={"vector": [1.0] * dim, "metadata": {"n": id}})
        if "\u0000" in id:
            assert put.status_code == 400
            assert client.get(path).status_code == 404
            continue
        assert put.status_code == 200, (id, put.text)
        got = client.get(path)
        assert got.headers["content-type"] == "application/json"
        assert got.json()["id"] == got.json()["metadata"]["n"] == id
        picture = client.get(got.json()["image_url"])
        assert (picture.status_code, code_of(picture)) == (404, "no_thumbnail"), id
        assert client.delete(path).json() == {"deleted": [id]}
    assert client.put("/v1/items/", json={"vector": [1.0] * dim}).status_code in (400, 404, 405)


def test_a_thumbnail_is_a_picture_only_whatever_its_id_is(client, dim):
    script = b"<script>alert(1)</script>"
    vector = np.ones(dim, dtype=np.float32)
    client.store.upsert([Item(id="x.html", vector=vector, thumbnail=script)])
    answer = client.get("/v1/items/x.html/thumbnail")
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("cursor", ["%", "////", "AA", "_w==", "a" * 3000])
def test_an_odd_cursor_is_refused(steady, cursor):
    answer = steady.get("/v1/items", params={"cursor": cursor})
    assert answer.status_code in (200, 400, 422)
    if answer.status_code == 200:
        assert cursor == "AA"


def test_a_pickled_array_is_no_vector(steady):
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    text = base64.b64encode(file.getvalue()).decode()
    assert steady.post("/v1/search", json={"vector": text}).status_code == 400


INTERNAL = [
    "file:///etc/passwd", "ftp://example.com/a", "gopher://127.0.0.1:{port}/", "//127.0.0.1:{port}",
    "http://127.0.0.1:{port}/", "http://[::1]:{port}/", "http://0:{port}/", "http://0.0.0.0/",
    "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://169.254.169.254/latest/",
    "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://localhost/",
    "http://localhost./", "http://user:pw@127.0.0.1/", "http://example.com@127.0.0.1/",
    "http://127.0.0.1#@example.com/", "http://10.0.0.1/", "http://192.168.0.1/", "http://100.64.0.1/",
    "http://[fe80::1]/", "http://[fc00::1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/",
    "http://224.0.0.1/", "http://", "http://\u0000/", "http:///", "http://a b/", "https://127.1/",
]  # fmt: skip


class _Canary:
    """A listener that nobody may reach."""

    def __enter__(self):
        self.reached = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self):
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.reached.append(connection.getpeername())
            connection.close()

    def __exit__(self, *error):
        self._listening.close()


def test_no_address_reaches_what_is_not_public(embedder, store):
    settings = Settings(url_input=True, url_timeout_s=3)
    with _Canary() as canary, served(create_app(embedder, store, settings)) as client:
        for address in INTERNAL:
            url = address.replace("{port}", str(canary.port))
            answer = client.post("/v1/search", json={"url": url})
            assert answer.status_code in (400, 422), (url, answer.text)
            asked = {"model": "vit_micro", "input": url}
            assert client.post("/v1/embeddings", json=asked).status_code in (400, 422)
        assert canary.reached == []


def test_an_address_that_changes_between_look_ups_is_looked_up_once():
    asked = []

    async def rebinding(host, port):
        asked.append(host)
        return ["127.0.0.1"] if len(asked) > 1 else ["203.0.113.9", "127.0.0.1"]

    async def ask():
        await fetch(
            "http://rebind.example/", max_bytes=10, timeout_s=1, param="url", resolve=rebinding
        )

    with pytest.raises(Exception, match="public internet"):
        asyncio.run(ask())
    assert asked == ["rebind.example"]


@pytest.mark.parametrize(
    ("ip", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("::1", False),
        ("100.64.0.1", False), ("::ffff:10.0.0.1", False), ("fe80::1%eth0", False),
        ("64:ff9b::a00:1", False), ("2002:a00:1::", False), ("0.0.0.0", False), ("x", False),
        ("192.0.2.1", False), ("239.1.1.1", False),
    ],
)  # fmt: skip
def test_public_addresses_are_told_from_others(ip, public):
    assert is_public(ip) == public
