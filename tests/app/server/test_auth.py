"""Who may ask: keys, hosts, other sites, how often."""

import base64
import logging

import pytest

from dino_app.server.app import create_app
from dino_app.server.auth import Keys, RateLimit, read_keys
from dino_app.server.errors import BusyError
from dino_app.server.settings import Settings
from tests.app.server.conftest import KEY, code_of, served, until

BEARER = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def guarded(embedder, store):
    with served(create_app(embedder, store, keys=Keys([KEY, "another-key-0123456789"]))) as client:
        yield client


def _paths(app):
    """Every path that the application answers, with something in its places."""
    document = app.openapi()["paths"]
    shown = [path for path in document] + ["/docs", "/openapi.json", "/nothing", "/v1/nothing"]
    return [path.replace("{id}", "a/0.jpg").replace("{name}", "x") for path in shown]


def test_every_route_but_livez_needs_a_key(embedder, store):
    app = create_app(embedder, store, keys=Keys([KEY]))
    own = {route.path for route in app.routes if hasattr(route, "path")}
    assert {"/livez", "/metrics", "/v1/search", "/docs"} <= own | {r for r in _paths(app)}
    with served(app) as client:
        for path in {*_paths(app), *own}:
            for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
                answer = client.request(method, path)
                if path == "/livez":
                    assert answer.status_code in (200, 405)
                else:
                    assert answer.status_code == 401, (method, path)
                    assert "a/0.jpg" not in answer.text


def test_either_key_opens_and_others_do_not(guarded):
    path = "/v1/info"
    assert guarded.get(path, headers=BEARER).status_code == 200
    second = {"Authorization": "bearer another-key-0123456789"}
    assert guarded.get(path, headers=second).status_code == 200
    for wrong in ("", "Bearer", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer \xff"):
        answer = guarded.get(path, headers={"Authorization": wrong.encode("latin1")})
        assert (answer.status_code, code_of(answer)) == (401, "invalid_api_key"), wrong
        assert answer.headers["www-authenticate"] == "Bearer"


def test_a_browser_may_log_in_outside_of_the_api_only(guarded):
    login = base64.b64encode(f"me:{KEY}".encode()).decode()
    headers = {"Authorization": f"Basic {login}"}
    assert guarded.get("/docs", headers=headers).status_code == 200
    assert guarded.get("/v1/info", headers=headers).status_code == 401
    assert guarded.get("/docs").headers["www-authenticate"].startswith("Basic")


def test_flags_open_metrics_and_docs(embedder):
    settings = Settings(open_metrics=True, open_docs=True)
    with served(create_app(embedder, None, settings, keys=Keys([KEY]))) as client:
        for path in ("/metrics", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        assert client.get("/v1/info").status_code == 401


def test_keys_appear_neither_in_the_log_nor_in_answers(guarded, caplog):
    caplog.set_level(logging.DEBUG)
    answers = [guarded.get(path, headers=BEARER) for path in ("/v1/info", "/metrics", "/readyz")]
    answers.append(guarded.get(f"/v1/items/x?key={KEY}", headers=BEARER))

    def records():
        return [r.getMessage() for r in caplog.records if r.name.startswith(("dino", "uvicorn"))]

    until(lambda: len(records()) >= 4)  # the server logs a request after it has answered
    logged = records()
    assert len(logged) == 4 and "/v1/info" in logged[0]
    assert not any(KEY in line for line in logged)
    assert not any(KEY in answer.text or KEY in str(answer.headers) for answer in answers)


def test_a_page_whose_name_points_here_is_kept_out(embedder):
    with served(create_app(embedder, hosts=("localhost", "127.0.0.1"))) as client:
        assert client.get("/readyz").status_code == 200
        evil = client.get("/v1/info", headers={"Host": "evil.example:8000"})
        assert (evil.status_code, code_of(evil)) == (403, "wrong_host")


def test_pages_of_other_sites_may_not_ask(client):
    own = {"Origin": str(client.base_url).rstrip("/")}
    assert client.get("/v1/info", headers=own).status_code == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        answer = client.post("/v1/snapshots/x/restore", headers={"Origin": origin})
        assert (answer.status_code, code_of(answer)) == (403, "other_site")
    assert "access-control-allow-origin" not in answer.headers


def test_a_client_that_asks_too_often_waits(embedder):
    with served(create_app(embedder, None, Settings(requests_per_minute=3))) as client:
        answers = [client.get("/v1/info") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert code_of(answers[3]) == "rate_limited"
        assert 1 <= int(answers[3].headers["retry-after"]) <= 60
        assert client.get("/livez").status_code == 200


def test_the_rate_limit_remembers_a_bounded_number_of_clients():
    rate = RateLimit(1)
    for number in range(20_000):
        rate.count(f"client {number}")
    assert len(rate) == 10_000
    with pytest.raises(BusyError):
        rate.count("client 19999")


def test_keys_come_from_a_file_and_the_environment(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\nkey-in-a-file-0123\n\n")
    keys = read_keys(path, {"DINO_API_KEYS": "key-one-0123456789, key-two-0123456789"})
    for key in ("key-in-a-file-0123", "key-one-0123456789", "key-two-0123456789"):
        assert keys.owner(f"Bearer {key}", login=False)
    assert keys.owner("Bearer # ours", login=False) is None
    assert not read_keys(None, {})


@pytest.mark.parametrize("data", [b"", b"# nothing\n", b"short\n", b"\xff\xfe" * 20])
def test_a_file_without_a_proper_key_is_refused(tmp_path, data):
    path = tmp_path / "keys"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="key"):
        read_keys(path, {})
