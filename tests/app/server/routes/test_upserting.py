"""Writes of several items."""

from tests.app.server.conftest import data_uri, picture_bytes


def test_each_item_of_a_write_is_judged_by_itself(client, dim):
    items = [
        {"id": "good", "vector": [1.0] * dim},
        {"id": "bomb", "image": data_uri(b"GIF89a")},
        {"id": "zero", "vector": [0.0] * dim},
        {"id": "control\n", "vector": [1.0] * dim},
        {"id": "also good", "image": data_uri(picture_bytes())},
    ]
    answer = client.post("/v1/items", json={"items": items})
    assert answer.status_code == 200, answer.text
    assert [item["status"] for item in answer.json()["items"]] == [
        "ok", "failed", "failed", "failed", "ok",
    ]  # fmt: skip
    assert client.get("/v1/items/good").status_code == 200
    assert client.get("/v1/items/bomb").status_code == 404
