"""Named states of the index."""

import pytest

from tests.app.server.conftest import code_of


def test_a_snapshot_brings_items_back(client):
    assert client.post("/v1/snapshots", json={"name": "before"}).status_code == 200
    again = client.post("/v1/snapshots", json={"name": "before"})
    assert (again.status_code, code_of(again)) == (409, "name_taken")
    client.delete("/v1/items/a/0.jpg")
    assert client.get("/v1/snapshots").json() == {"snapshots": ["before"]}
    assert client.post("/v1/snapshots/before/restore").status_code == 200
    assert client.get("/v1/items/a/0.jpg").status_code == 200
    assert client.post("/v1/snapshots/none/restore").status_code == 404


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".", "a" * 65, "a\n"])
def test_a_snapshot_needs_a_plain_name(steady, name):
    assert steady.post("/v1/snapshots", json={"name": name}).status_code == 422
