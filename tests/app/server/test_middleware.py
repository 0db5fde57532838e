"""Raw bytes that attackers send: no crash, no hang, and no request smuggled in."""

import json
import socket
import time

from tests.app.server.conftest import code_of


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
