"""A server whose disk fails or whose requests are damaged: an answer to each, and it goes on."""

import json

import pytest
from hypothesis import strategies as st

from dino_app.server.app import create_app
from tests.app.server.conftest import (  # noqa: F401 - fixtures
    code_of,
    data_uri,
    dim,
    embedder,
    filled_store,
    picture_bytes,
    served,
    steady,
)
from tests.faults.fuzzing import damaged, fuzz, odd_json
from tests.faults.refusing import refused_step

ANSWERS = {200, 201, 207, 400, 404, 409, 413, 415, 422, 429}
LONGEST_S = 20
LONGEST_ANSWER = 20_000


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_write_that_the_disk_refuses_is_503_and_not_there(
    embedder,  # noqa: F811
    dim,  # noqa: F811
    tmp_path,
    error,
):
    store = filled_store(tmp_path / "index", dim)
    item = {"id": "new", "vector": [1.0] * dim}
    with served(create_app(embedder, store)) as client:
        with refused_step(0, error):
            answer = client.post("/v1/items", json={"items": [item]})
        assert answer.status_code == 503 and code_of(answer) == "index_unavailable"
        assert client.get("/v1/items/new").status_code == 404
        found = client.post("/v1/search", json={"id": "a/0.jpg", "k": 3})
        assert found.status_code == 200
        assert client.post("/v1/items", json={"items": [item]}).status_code == 200  # room again
        assert client.get("/v1/items/new").status_code == 200
    store.close()


def bodies() -> dict[str, list[object]]:
    picture = data_uri(picture_bytes(size=(12, 10)))
    return {
        "/v1/search": [
            {
                "id": "a/0.jpg",
                "k": 3,
                "filter": {"label": {"$in": ["cat"]}},
                "include": ["metadata"],
            },
            {"image": picture, "k": 2, "params": {"exact": True}},
        ],
        "/v1/search:batch": [{"searches": [{"id": "a/0.jpg", "k": 1}, {"image": picture}]}],
        "/v1/classify": [{"image": picture, "k": 3}],
        "/v1/embeddings": [{"input": [picture], "encoding_format": "base64"}],
        "/v1/items": [{"items": [{"id": "n", "image": picture, "metadata": {"a": 1}}]}],
        "/v1/items:delete": [{"ids": ["a/0.jpg"]}],
    }


@pytest.mark.parametrize("path", list(bodies()))
def test_any_body_gets_an_answer(steady, path):  # noqa: F811
    known = bodies()[path]
    texts = [json.dumps(body).encode() for body in known]

    fuzz(lambda body: check(steady, path, "application/json", body),
         st.one_of(damaged(texts), *map(odd_json, known)), 25)  # fmt: skip
    assert steady.get("/readyz").status_code == 200


def form(boundary: bytes = b"edge") -> bytes:
    part = b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    picture = picture_bytes(size=(12, 10))
    file = b'; filename="a.png"\r\nContent-Type: image/png'
    return (
        part % (boundary, b"file", file, picture)
        + part % (boundary, b"k", b"", b"3")
        + (b"--%s--\r\n" % boundary)
    )


def test_any_form_gets_an_answer(steady):  # noqa: F811
    kind = "multipart/form-data; boundary=edge"
    fuzz(lambda body: check(steady, "/v1/search", kind, body), damaged([form()]), 60)
    assert steady.get("/readyz").status_code == 200


def check(client, path: str, kind: str, body: bytes) -> None:
    """Post a body; any answer but a failure of the server will do, in bounded time."""
    headers = {"Content-Type": kind}
    answer = client.post(path, content=body, headers=headers, timeout=LONGEST_S)
    assert answer.status_code in ANSWERS, (body[:300], answer.text[:300])
    assert len(answer.content) < LONGEST_ANSWER
    if answer.status_code >= 400:
        code_of(answer)


def test_a_form_that_was_cut_off_is_refused(steady):  # noqa: F811
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    whole = form()
    assert steady.post("/v1/search", content=whole, headers=headers).status_code != 400
    for kept in (len(whole) - 20, len(whole) // 2):
        answer = steady.post("/v1/search", content=whole[:kept], headers=headers)
        assert answer.status_code == 400 and code_of(answer) == "invalid_form"
        assert "before its last boundary" in answer.json()["error"]["message"]
