"""The demo beside the API: the same limits on its routes, and the API's errors stay its own."""

import json
import signal
import socket
import time
from contextlib import contextmanager, suppress
from functools import partial

import httpx
import pytest

from dino_app.server.app import create_app
from dino_app.server.request_images import MAX_VALUES
from dino_app.server.settings import Settings
from tests.app.cli.test_serve import running
from tests.app.server.conftest import (
    HeavyStore,
    ask_beside_livez,
    code_of,
    picture_bytes,
    served,
    until,
)

LIMITS = ["--max-body-mb", "2", "--max-image-mb", "1", "--body-timeout-s", "0.6"]
WAIT_S = 15  # on a busy machine, for what comes within a second
AS_JSON = {"Content-Type": "application/json"}
CHUNK = b"10000\r\n" + b"A" * 65536 + b"\r\n"
MOUNTED = [
    "/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/run/predict",
    "/gradio_api/call/x", "/gradio_api/component_server", "/gradio_api/stream/x", "/login",
]  # fmt: skip
ANY = [*MOUNTED, "/gradio_api/proxy=http://x", "/", "/unknown", "/v1/search", "/v1/unknown"]


@pytest.fixture(scope="module")
def demo(weights, tmp_path_factory):
    """A client of ``dino-serve --demo``, which is another process: Gradio leaves loops open."""
    more = ["--max-requests", "3", "--no-access-log"]
    folder = tmp_path_factory.mktemp("tmp")
    env = {"TMPDIR": str(folder)}
    with running("--weights", weights, "--demo", *LIMITS, *more, env=env) as child:
        with httpx.Client(base_url=child.url, timeout=20, trust_env=False) as client:
            client.folder = folder
            yield client
        child.send_signal(signal.SIGTERM)
        assert child.wait(90) == 0
        assert "Traceback" not in child.communicate()[1]
    assert list(folder.iterdir()) == [], "uploads go with the server"


def _left(client):
    """Files of uploads, wherever the server put them."""
    return [path for path in client.folder.rglob("*") if path.is_file()]


def _in_work(client):
    return float(client.get("/metrics").text.split("\ndino_requests_in_work ")[1].split()[0]) - 1


def _answer(connection):
    """All that comes until the server closes or waits."""
    connection.settimeout(WAIT_S)
    got = b""
    with suppress(ConnectionResetError):  # by a server that has not read all that was sent
        while b'"error"' not in got and (part := connection.recv(65536)):
            got += part
    return got


def _head(path, *fields, kind="application/json"):
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _kind(path):
    return "multipart/form-data; boundary=a" if path.endswith("upload") else "application/json"


@contextmanager
def _connected(client):
    place = (client.base_url.host, client.base_url.port)
    with socket.create_connection(place, timeout=5) as connection:
        yield connection


def _sent_until_closed(client, head, part, *, most, pause_s=0.0):
    """How many parts of an endless body are taken, what came back, and after how long."""
    start = time.perf_counter()
    with _connected(client) as connection:
        connection.sendall(head)
        parts = 0
        try:
            while parts < most:
                connection.sendall(part)
                parts += 1
                time.sleep(pause_s)
            got = _answer(connection)
        except OSError:
            got = b"closed"
    return parts, got, time.perf_counter() - start


@pytest.mark.parametrize("path", ANY)
def test_a_body_without_end_is_cut_off_on_every_route(demo, path):
    head = _head(path, "Transfer-Encoding: chunked", kind=_kind(path))
    parts, got, seconds = _sent_until_closed(demo, head, CHUNK, most=2000)
    assert parts * 65536 < 12e6, "what the kernel buffers and 2 MB, of 131"
    assert got == b"closed" or b" 413 " in got or b" 404 " in got or b" 405 " in got
    assert seconds < WAIT_S
    until(lambda: _in_work(demo) == 0)


@pytest.mark.parametrize("path", MOUNTED)
def test_a_claimed_length_beyond_the_limit_is_refused_unread(demo, path):
    with _connected(demo) as connection:
        connection.sendall(_head(path, "Content-Length: 3000000", kind=_kind(path)))
        answer = _answer(connection)
    assert b" 413 " in answer and b"body_too_large" in answer


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload", "/v1/search"])
def test_a_slow_body_ends_with_408_on_every_route(demo, path):
    def ask():
        start = time.perf_counter()
        with _connected(demo) as connection:
            connection.sendall(_head(path, "Content-Length: 1000", kind=_kind(path)) + b"--a\r\n")
            return _answer(connection), time.perf_counter() - start

    answer, seconds = ask_beside_livez(demo, ask)
    assert b" 408 " in answer and b"slow_body" in answer
    assert 0.5 < seconds < WAIT_S


@pytest.mark.parametrize("how", ["gone", "slow", "too long"])
def test_an_upload_that_breaks_off_leaves_no_file(demo, how):
    before = _left(demo)
    part = b'--a\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    part += b"x" * 200_000
    with _connected(demo) as connection:
        chunked = how == "too long"
        size = "Transfer-Encoding: chunked" if chunked else "Content-Length: 1000000"
        connection.sendall(_head("/gradio_api/upload", size, kind=_kind("upload")))
        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        until(lambda: len(_left(demo)) > len(before))
        if how == "too long":
            connection.sendall(CHUNK * 40)
        if how == "slow":
            assert b" 408 " in _answer(connection)
    until(lambda: _left(demo) == before)
    until(lambda: _in_work(demo) == 0)


def test_too_many_at_once_are_refused_on_every_route_but_not_the_state_of_the_server(demo):
    with _connected(demo) as one, _connected(demo) as two, _connected(demo) as three:
        for waiting in (one, two, three):
            waiting.sendall(_head("/gradio_api/queue/join", "Content-Length: 1000"))
        until(lambda: _in_work(demo) == 3)
        for path in ("/gradio_api/queue/join", "/gradio_api/config", "/", "/unknown", "/v1/info"):
            answer = demo.get(path)
            assert (answer.status_code, code_of(answer)) == (429, "too_many_requests"), path
        for path in ("/livez", "/readyz", "/metrics"):
            assert demo.get(path).status_code == 200
    until(lambda: _in_work(demo) == 0)


def test_open_pages_take_no_place_of_requests_and_are_bounded_themselves(demo):
    heartbeat = "/gradio_api/heartbeat/abc"
    with (
        demo.stream("GET", heartbeat),
        demo.stream("GET", heartbeat),
        demo.stream("GET", heartbeat) as third,
    ):
        assert third.status_code == 200
        assert demo.get("/v1/info").status_code == 200
        fourth = demo.get(heartbeat)
        assert (fourth.status_code, code_of(fourth)) == (429, "too_many_pages")
    until(lambda: demo.get("/").status_code == 200)


def test_what_a_page_does_still_works(demo):
    upload = demo.post("/gradio_api/upload", files={"files": ("a.png", picture_bytes())})
    assert upload.status_code == 200, upload.text
    large = picture_bytes(size=(700, 700))
    assert demo.post("/gradio_api/upload", files={"files": ("a.png", large)}).status_code == 413
    config = demo.get("/config").json()
    said = next(one for one in config["dependencies"] if one["api_visibility"] == "private")
    event = {"data": ["micro.safetensors"], "fn_index": said["id"], "session_hash": "abc"}
    assert demo.post("/gradio_api/queue/join", json=event).status_code == 200
    with demo.stream("GET", "/gradio_api/queue/data", params={"session_hash": "abc"}) as answers:
        text = "".join(answers.iter_text())
    assert "process_completed" in text and "close_stream" in text


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH"])
def test_what_the_api_does_not_know_is_its_own_error_beside_the_demo(demo, method):
    for path in ("/v1", "/v1/", "/v1/nope", "/v1/search/", "/v1/nope/deep"):
        answer = demo.request(method, path)
        assert answer.status_code == 404, (method, path)
        if method != "HEAD":
            assert code_of(answer) == "not_found"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/search", "POST"), ("/v1/info", "GET"), ("/v1/items", "GET, POST"),
        ("/v1/items:delete", "POST"), ("/v1/items/a/b", "DELETE, GET, PUT"),
        ("/v1/snapshots/x/restore", "POST"), ("/livez", "GET"), ("/metrics", "GET"),
    ],
)  # fmt: skip
def test_another_method_is_405_with_those_that_are_allowed(demo, steady, path, allowed):
    for client in (demo, steady):
        for method in {"GET", "POST", "PUT", "DELETE"} - set(allowed.split(", ")):
            answer = client.request(method, path)
            assert (answer.status_code, code_of(answer)) == (405, "method_not_allowed"), method
            assert answer.headers["allow"] == allowed
        for method in ("HEAD", "OPTIONS", "PATCH"):
            answer = client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(steady):
    numbers = b'{"vector": [' + b"1," * MAX_VALUES + b"1]}"
    fields = b'{"searches": [' + b'{"a":1},' * (MAX_VALUES // 8) + b"1]}"
    for path in ("/v1/search", "/v1/search:batch", "/v1/items"):
        for body in (numbers, fields):
            ask = partial(steady.post, path, content=body, headers=AS_JSON)
            answer = ask_beside_livez(steady, ask)
            assert (answer.status_code, code_of(answer)) == (413, "too_many_values")


def test_the_fields_of_a_form_are_counted_before_they_are_parsed(steady):
    fields = {f"f{i}": "[" + "1," * 400_000 + "1]" for i in range(15)}
    ask = partial(steady.post, "/v1/search", files={"file": picture_bytes()}, data=fields)
    answer = ask_beside_livez(steady, ask)
    assert (answer.status_code, code_of(answer)) == (413, "too_many_values")


def test_an_answer_is_not_held_for_a_client_that_does_not_read(embedder, dim):
    settings = Settings(request_timeout_s=2, max_bodies_mb=20)
    app = create_app(embedder, HeavyStore(dim), settings)
    load = app.state.service.load
    body = json.dumps({"vector": [1.0] * dim, "k": 450}).encode()
    with served(app) as client, _connected(client) as connection:
        connection.sendall(_head("/v1/search", f"Content-Length: {len(body)}") + body)
        until(lambda: load.body_bytes > 20_000_000)
        refused = client.post("/v1/search", content=body, headers=AS_JSON)
        assert (refused.status_code, code_of(refused)) == (429, "too_many_bytes")
        assert client.get("/livez").status_code == 200
        until(lambda: load.requests == load.body_bytes == 0)
        received = 0
        while part := connection.recv(1 << 20):
            received += len(part)
        assert received < 20_000_000, "the rest of the answer is given up"
