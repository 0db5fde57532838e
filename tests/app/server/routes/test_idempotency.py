"""Writes that are asked for twice."""

from tests.app.server.conftest import code_of


def test_a_write_with_one_idempotency_key_is_done_once(client, dim):
    asked = {"json": {"items": [{"id": "one", "vector": [1.0] * dim}]}}
    headers = {"Idempotency-Key": "k1"}
    first = client.post("/v1/items", **asked, headers=headers).json()
    client.delete("/v1/items/one")
    assert client.post("/v1/items", **asked, headers=headers).json() == first
    assert client.get("/v1/items/one").status_code == 404
    other = client.post(
        "/v1/items", json={"items": [{"id": "two", "vector": [1.0] * dim}]}, headers=headers
    )
    assert (other.status_code, code_of(other)) == (409, "idempotency_conflict")
