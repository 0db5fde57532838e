"""Addresses that a server may fetch, and those it may not."""

import asyncio
import socket
import threading

import pytest

from dino_app.server.app import create_app
from dino_app.server.fetching import fetch, is_public
from dino_app.server.settings import Settings
from tests.app.server.conftest import served

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
