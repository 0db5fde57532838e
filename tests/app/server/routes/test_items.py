"""Pages of items and what an item may hold."""

from functools import partial

from dino_app.server.app import create_app
from dino_app.server.routes.items import MAX_PAGE_BYTES
from tests.app.server.conftest import HeavyStore, ask_beside_livez, served

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
