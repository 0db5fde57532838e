"""Encoded images as requests write them."""

import base64
import time
from urllib.parse import quote

import numpy as np
import pytest

from dino_app.server.request_images import base64_bytes
from tests.app.server.bombs import other_bombs, png_bombs
from tests.app.server.conftest import code_of, data_uri, picture_bytes

SAME = 1e-5  # float32 through JSON, and another batch


@pytest.mark.parametrize("data", [b"a", b"ab", b"abc"])
def test_base64_may_have_its_padding_or_not(data):
    padded = base64.b64encode(data).decode()
    for text in (padded, padded.rstrip("="), f"data:;base64,{padded}"):
        assert base64_bytes(text, param="image", max_bytes=9) == data


WRITTEN = {
    "base64 FILE": lambda data: base64.encodebytes(data).decode(),
    "CRLF": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "no padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "capitals": lambda data: f"DATA:image/PNG;BASE64,{base64.b64encode(data).decode()}",
    "no type": lambda data: f"data:;base64,{base64.b64encode(data).decode()}",
    "parameters": lambda data: data_uri(data, "image/png;charset=utf-8;name=a.png"),
    "lines": lambda data: f"data:image/png;base64,\n{base64.encodebytes(data).decode()}",
    "percents": lambda data: f"data:image/png;base64,{quote(base64.b64encode(data), safe='')}",
    "bytes": lambda data: f"data:image/png,{quote(data, safe='')}",
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_an_image_may_be_written_in_each_way_that_the_standards_allow(steady, written):
    data = picture_bytes(size=(31, 33))
    for path in ("/v1/search", "/v1/classify", "/v1/attention"):
        answer = steady.post(path, json={"image": written(data)})
        assert answer.status_code == 200, answer.text
    asked = {"model": "vit_micro", "input": [data_uri(data), written(data)]}
    plain, other = steady.post("/v1/embeddings", json=asked).json()["data"]
    np.testing.assert_allclose(other["embedding"], plain["embedding"], atol=SAME)


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
