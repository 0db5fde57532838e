"""Pages of items and what an item may hold."""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from dino_app.server.app import create_app
from dino_app.server.routes.items import MAX_PAGE_BYTES
from dino_app.server.routes.search import image_url
from dino_app.store.interface import Item
from tests.app.server.conftest import (
    HeavyStore,
    ask_beside_livez,
    code_of,
    picture_bytes,
    served,
)

SAME = 1e-5  # float32 through JSON, and another batch

MOST = MAX_PAGE_BYTES + 100 * (1 << 16)


def test_a_page_is_bounded_in_bytes_and_its_cursor_leads_to_the_rest(embedder, dim):
    seen, cursor = [], None
    with served(create_app(embedder, HeavyStore(dim))) as client:
        while len(seen) == 0 or cursor is not None:
            params = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
            answer = ask_beside_livez(client, partial(client.get, "/v1/items", params=params))
            assert answer.status_code == 200 and len(answer.content) < MOST
            page = answer.json()
            seen += [item["id"] for item in page["items"]]
            cursor = page["next_cursor"]
    assert seen == [f"{number:05d}" for number in range(1500)]


def test_metadata_of_an_item_are_bounded_in_bytes(client, dim):
    asked = {"vector": [1.0] * dim, "metadata": {f"f{i}": "é" * 200 for i in range(250)}}
    items = [{"id": "large", **asked}, {"id": "good", "vector": [1.0] * dim}]
    large, good = client.post("/v1/items", json={"items": items}).json()["items"]
    assert (large["status"], good["status"]) == ("failed", "ok")
    assert large["error"]["code"] == "invalid_item" and "65536 bytes" in large["error"]["message"]
    assert client.put("/v1/items/large", json=asked).status_code == 400


def test_an_item_is_put_got_listed_and_deleted(client, dim):
    put = client.put("/v1/items/new", json={"vector": [1.0] * dim, "metadata": {"n": 1}})
    assert put.json()["items"] == [{"id": "new", "status": "ok", "error": None}]
    found = client.post("/v1/search", json={"id": "new"}).json()
    assert found["snapshot"] == put.json()["snapshot"]
    got = client.get("/v1/items/new", params={"include": "vector"}).json()
    assert got["metadata"] == {"n": 1}
    np.testing.assert_allclose(np.linalg.norm(got["vector"]), 1, atol=SAME)
    assert "vector" not in client.get("/v1/items/new").json()
    assert client.delete("/v1/items/new").json() == {"deleted": ["new"]}
    assert client.get("/v1/items/new").status_code == 404
    assert client.delete("/v1/items/new").status_code == 404


def test_an_image_item_gets_its_vector_its_facts_and_a_thumbnail(client):
    picture = picture_bytes(size=(300, 600), format="JPEG")
    put = client.put(
        "/v1/items/a/photo.jpg", files={"file": picture}, data={"metadata": '{"label": "x"}'}
    )
    assert put.status_code == 200, put.text
    metadata = client.get("/v1/items/a/photo.jpg").json()["metadata"]
    assert metadata["label"] == "x" and metadata["bytes"] == len(picture)
    assert (metadata["width"], metadata["height"]) == (600, 300)
    answer = client.get("/v1/items/a%2Fphoto.jpg/thumbnail")
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert Image.open(io.BytesIO(answer.content)).size == (256, 128)
    tag = {"If-None-Match": f'"other", {answer.headers["etag"]}'}
    again = client.get("/v1/items/a/photo.jpg/thumbnail", headers=tag)
    assert again.status_code == 304 and not again.content


def test_items_are_listed_page_by_page(steady):
    seen, cursor = [], None
    for _ in range(4):
        page = steady.get(
            "/v1/items", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        ).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["a/0.jpg", "a/2.jpg", "a/4.jpg", "b/1.jpg", "b/3.jpg", "b/5.jpg"]
    only = steady.get("/v1/items", params={"filter": '{"label": "cat"}'}).json()["items"]
    assert [item["id"] for item in only] == ["b/1.jpg", "b/3.jpg", "b/5.jpg"]


def test_several_items_are_deleted_at_once(client):
    asked = {"ids": ["a/0.jpg", "none", "a/0.jpg", "b/1.jpg", "\u0000"]}
    answer = client.post("/v1/items:delete", json=asked)
    assert answer.json() == {"deleted": ["a/0.jpg", "b/1.jpg"]}


def test_very_many_ids_are_refused(steady):
    answer = steady.post("/v1/items:delete", json={"ids": [str(i) for i in range(1_000_000)]})
    assert answer.status_code in (413, 422)
    twice = [{"id": "a", "vector": [1.0]}] * 2
    assert steady.post("/v1/items", json={"items": twice}).status_code == 400


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
