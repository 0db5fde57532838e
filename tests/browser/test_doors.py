"""Who may come in, and what can be read."""

import json

import httpx
import pytest
from PIL import Image

from tests.browser.demo_server import demo_server
from tests.browser.driving import shown, upload

KEY = "a-key-of-more-than-16-letters"
LIMIT_MB = 1


@pytest.fixture(scope="module")
def locked(weights_folder, tmp_path_factory):
    """A demo that needs a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(f"# mine\n{KEY}\n")
    weights = str(weights_folder / "early.safetensors")
    flags = ("--api-key-file", str(keys), "--max-file-mb", str(LIMIT_MB))
    with demo_server("--weights", weights, *flags, attacked=True) as address:
        yield address


@pytest.fixture
def client(locked):
    """Somebody with the key, who does not use a browser."""
    with httpx.Client(
        base_url=locked, headers={"authorization": f"Bearer {KEY}"}, timeout=60
    ) as one:
        yield one


def attention_of(client, picture):
    """What the endpoint answers to this in the place of an upload."""
    config = client.get("/config").json()
    endpoint = next(one for one in config["dependencies"] if one["api_name"] == "attention")
    settings = {one["id"]: one["props"].get("value") for one in config["components"]}
    values = [settings[one] for one in endpoint["inputs"][1:]]
    sent = {"path": str(picture), "meta": {"_type": "gradio.FileData"}}
    call = {"data": [sent, *values], "fn_index": endpoint["id"], "session_hash": "test"}
    client.post("/gradio_api/queue/join", json=call).raise_for_status()
    with client.stream("GET", "/gradio_api/queue/data?session_hash=test") as stream:
        for line in stream.iter_lines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if event.get("msg") == "process_completed":
                return event


def test_without_the_key_nothing_can_be_done(locked, client):
    call = {"data": [], "fn_index": 0, "session_hash": "test"}
    for method, path, options in (
        ("GET", "/", {}),
        ("GET", "/config", {}),
        ("GET", "/gradio_api/info", {}),
        ("POST", "/gradio_api/upload", {"files": {"files": ("a.png", b"x")}}),
        ("POST", "/gradio_api/queue/join", {"json": call}),
        ("POST", "/gradio_api/run/predict", {"json": call}),
        ("POST", "/gradio_api/call/attention", {"json": call}),
        ("GET", "/gradio_api/queue/data?session_hash=test", {}),
        ("GET", f"/gradio_api/file={__file__}", {}),
    ):
        for headers in ({}, {"authorization": "Bearer another-key-of-16-letters"}):
            answer = httpx.request(method, locked + path, headers=headers, timeout=60, **options)
            assert answer.status_code == 401, path
            assert "Basic" in answer.headers["www-authenticate"]
    assert client.get("/config").status_code == 200


def test_a_browser_logs_in_with_the_key_as_password(opened, locked, cat):
    login = {"username": "me", "password": KEY, "origin": locked}
    page = opened(locked, http_credentials=login)
    upload(page, "attention-picture", cat)
    assert shown(page, "attention-slider", 1).std() > 20


def test_an_upload_is_looked_at_but_no_file_of_the_server(client, cat, tmp_path):
    answer = client.post("/gradio_api/upload", files={"files": ("cat.png", cat.read_bytes())})
    event = attention_of(client, answer.json()[0])
    assert event["success"] and "60% of its attention" in json.dumps(event["output"])
    secret = tmp_path / "secret.png"
    Image.open(cat).save(secret)
    for path in (secret, secret.as_uri(), f"{answer.json()[0]}/../../secret.png"):
        assert not attention_of(client, path)["success"]
    for path in (secret, __file__, "/etc/passwd"):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


def test_addresses_are_not_fetched(client):
    event = attention_of(client, "http://example.com/cat.png")
    assert not event["success"] and "Addresses are not fetched here" in json.dumps(event)


def test_a_large_file_is_refused_while_it_arrives(client):
    for size, status in ((10**6 // 2, 200), (2 * 10**6, 413)):
        answer = client.post("/gradio_api/upload", files={"files": ("a.png", bytes(size))})
        assert answer.status_code == status
