"""dino-serve as a process: how it starts, what it refuses, how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import httpx
import numpy as np
import pytest
import torch

from dino_app.cli.serve import main
from dino_app.cli.serve_options import Place, with_environment
from dino_app.store.interface import Item
from dino_app.store.opening import create_store, open_store
from dino_infer.cli.exit_codes import UsageError
from dino_infer.embedding.embedder import Embedder
from dino_infer.heads import LinearHead
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from tests.app.server.bombs import png_bombs
from tests.app.server.conftest import KEY, data_uri, picture_bytes

RUN = "import sys; from dino_app.cli.serve import main; sys.exit(main())"
START_S = 90  # on a busy machine
MAX_GROWTH_MB = 50


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return _saved(tmp_path_factory.mktemp("weights") / "micro.safetensors", seed=0)


def _saved(path, *, seed):
    torch.manual_seed(seed)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    save_checkpoint(path, backbone, CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32))
    return str(path)


@pytest.fixture(scope="module")
def index(tmp_path_factory, weights):
    folder = tmp_path_factory.mktemp("index") / "photos.index"
    embedder = Embedder.load(weights, device="cpu")
    model = embedder.description() | {"weights": weights}
    dim = embedder.feature_shape[0]
    store = create_store(folder, dim=dim, model=model)
    store.upsert([Item(id="one", vector=np.ones(dim, dtype=np.float32), metadata={"label": "x"})])
    store.close()
    return str(folder)


@contextmanager
def running(*args, env=None):
    """The command as a child; ``child.url`` is where it answers, ``child.lines`` what it said."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DINO_")} | (env or {})
    child = subprocess.Popen(
        [sys.executable, "-c", RUN, *args, "--device", "cpu", "--port", "0"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        child.lines = []
        for line in child.stderr:
            child.lines.append(line)
            if found := re.search(r"answering at (http://\S+)", line):
                child.url = found[1]
                _wait_until_ready(child)
                break
        yield child
    finally:
        child.kill()
        child.communicate()


def _wait_until_ready(child):
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            if httpx.get(f"{child.url}/livez", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the server did not start")


def _rss_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def test_it_serves_an_index_survives_bombs_and_ends_well(index):
    env = {"DINO_API_KEYS": KEY, "OMP_NUM_THREADS": "1", "DINO_DRAIN_NOTICE_S": "1"}
    with running(index, env=env) as child:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=child.url, headers=headers, timeout=30, trust_env=False) as user:
            assert httpx.get(f"{child.url}/v1/info", trust_env=False).status_code == 401
            assert user.get("/v1/info").json()["index"]["rows"] == 1
            assert user.get("/").headers["location"] == "/docs"
            put = user.put("/v1/items/two", files={"file": picture_bytes()})
            assert put.status_code == 200, put.text
            _bombard(user, child.pid)
            _end_amid_a_request(user, child)
        assert child.wait(20) == 0
        stdout, stderr = child.communicate()
        assert stdout == ""
        said = [*child.lines, *stderr.splitlines()]
    requests = [json.loads(line) for line in said if line.startswith("{")]
    assert {"request_id", "status", "ms", "path"} <= set(requests[0])
    assert not any(KEY in line or "Traceback" in line for line in said)
    with closing(open_store(index)) as store:
        assert store.info().rows == 2


def test_the_demo_is_beside_the_api_behind_one_login_and_lets_go_of_open_pages(weights):
    env = {"DINO_API_KEYS": KEY, "OMP_NUM_THREADS": "1"}
    with running("--weights", weights, "--demo", env=env) as child:
        with httpx.Client(base_url=child.url, timeout=30, trust_env=False) as visitor:
            assert visitor.get("/").status_code == 401
            page = visitor.get("/", auth=("anyone", KEY))
            assert page.status_code == 200 and "text/html" in page.headers["content-type"]
            assert visitor.get("/v1/info").status_code == 401
            api = visitor.get("/v1/info", headers={"Authorization": f"Bearer {KEY}"})
            assert api.status_code == 200
            heartbeat = f"/gradio_api/heartbeat/{'a' * 10}"
            with visitor.stream("GET", heartbeat, auth=("anyone", KEY)) as open_page:
                assert open_page.status_code == 200
                child.send_signal(signal.SIGTERM)
                assert child.wait(20) == 0
        assert "Traceback" not in child.communicate()[1]


def _bombard(client, pid):
    """Bombs and large images must not make the process larger."""
    bombs = [data for _, data in png_bombs()] + [b"\x89PNG" * 1_000_000]
    bombs.append(picture_bytes(size=(2000, 3000), format="JPEG", quality=60))
    for bomb in bombs:  # once for what is kept in any case
        client.post("/v1/search", files={"file": bomb})
        client.post("/v1/embeddings", json={"model": "vit_micro", "input": data_uri(bomb)})
    before = _rss_mb(pid)
    for _ in range(5):
        for bomb in bombs:
            assert client.post("/v1/search", files={"file": bomb}).status_code in (
                200,
                400,
                413,
                415,
            )
            body = {"model": "vit_micro", "input": data_uri(bomb)}
            assert client.post("/v1/embeddings", json=body).status_code < 500
    assert _rss_mb(pid) - before < MAX_GROWTH_MB


def _end_amid_a_request(user, child):
    """SIGTERM while a body is on its way: /readyz says so, the request is answered."""
    body = json.dumps({"model": "vit_micro", "input": data_uri(picture_bytes())}).encode()
    fields = ("Host: localhost", f"Authorization: Bearer {KEY}", f"Content-Length: {len(body)}")
    head = "\r\n".join(["POST /v1/embeddings HTTP/1.1", *fields, "Content-Type: application/json"])
    place = (user.base_url.host, user.base_url.port)
    with socket.create_connection(place, timeout=20) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body[:-5])
        time.sleep(0.3)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert user.get("/readyz").status_code == 503
        connection.sendall(body[-5:])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def _fails(*args, capsys):
    code = main([*args, "--device", "cpu"])
    said = capsys.readouterr().err.strip()
    assert said.count("error:") == 1 and "Traceback" not in said
    return code, said.splitlines()[-1]


def test_it_says_in_one_line_why_it_does_not_start(index, weights, tmp_path, capsys):
    code, said = _fails("--host", "0.0.0.0", "--weights", weights, capsys=capsys)
    assert code == 2 and "--api-key-file" in said
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, said = _fails("--port", port, "--weights", weights, capsys=capsys)
    assert code == 1 and "cannot listen" in said and port in said
    code, said = _fails(str(tmp_path / "none"), "--port", "0", capsys=capsys)
    assert code == 1 and "none" in said
    code, said = _fails("--port", "0", "--weights", str(tmp_path / "none.pth"), capsys=capsys)
    assert code == 1 and "none.pth" in said
    code, said = _fails("--port", "0", "--api-key-file", str(tmp_path / "keys"), capsys=capsys)
    assert code == 1 and "keys" in said
    code, said = _fails("--port", "0", "--site", str(tmp_path), capsys=capsys)
    assert (
        code == 2 and "--site needs a folder with an index.html" in said and str(tmp_path) in said
    )
    code, said = _fails("--port", "0", "--site", str(tmp_path), "--demo", capsys=capsys)
    assert code == 2 and "pass one of them" in said
    other = _saved(tmp_path / "other.safetensors", seed=1)
    code, said = _fails(index, "--port", "0", "--weights", other, capsys=capsys)
    assert code == 1 and "weights" in said


def test_a_head_of_another_network_or_feature_is_refused_in_one_line(weights, tmp_path, capsys):
    made_by = Embedder.load(weights, device="cpu", exact_decode=True).description()
    for changes, message in (
        ({"weights_sha256": "0"}, "the head was made differently: weights_sha256 was '0'"),
        ({}, "cannot be used: its weights are not those that were saved"),
    ):
        path = tmp_path / "head.safetensors"
        zeros = np.zeros((2, 128), np.float32)
        LinearHead(
            weight=zeros, bias=zeros[:, 0].copy(), classes=("a", "b"), made_by=made_by | changes
        ).save(path)
        if not changes:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        args = ("--port", "0", "--weights", weights, "--head", str(path))
        code, said = _fails(*args, capsys=capsys)
        assert code == 1 and message in said
    code, said = _fails(*args, "--feature", "mean", capsys=capsys)
    assert code == 1
    code, said = _fails("--port", "0", "--head", str(tmp_path / "none"), capsys=capsys)
    assert code == 1 and "cannot read head" in said


@pytest.mark.parametrize("flags", [["--max-k", "2000"], ["--max-queue", "0"], ["--prot", "1"]])
def test_wrong_limits_are_wrong_usage(flags, capsys):
    assert main([*flags]) == 2
    capsys.readouterr()


def test_variables_stand_for_flags_and_flags_go_first():
    env = {"DINO_PORT": "1", "DINO_READ_ONLY": "yes", "DINO_DEMO": "0", "DINO_ACCESS_LOG": "0"}
    assert with_environment(["x"], env) == ["--read-only", "--port", "1", "--no-access-log", "x"]
    assert with_environment(["--port=2"], {"DINO_PORT": "1"}) == ["--port=2"]
    with pytest.raises(UsageError, match="--demo"):
        with_environment([], {"DINO_DEMO": "perhaps"})


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False)],
)
def test_only_this_machine_is_local(host, local):
    assert Place(host=host).is_local == local


def test_help_answers_at_once():
    start = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", RUN, "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0 and "--max-queue" in shown.stdout
    assert not re.search(r"\| +(torch|fastapi|faiss)$", shown.stderr, re.MULTILINE)
    assert time.perf_counter() - start < START_S
