"""Facts about a server, and how it does."""

import re

from tests.app.server.conftest import data_uri, picture_bytes


def test_the_server_says_what_it_is_and_how_it_does(client, dim):
    assert client.get("/livez").json()["status"] == "ok"
    ready = client.get("/readyz")
    assert ready.status_code == 200 and set(ready.json()["checks"].values()) == {"ok"}
    info = client.get("/v1/info").json()
    assert (info["model"], info["dim"], info["index"]["rows"]) == ("vit_micro", dim, 6)
    assert info["limits"]["max_k"] == 1000
    client.post("/v1/search", json={"id": "a/0.jpg"})
    text = client.get("/metrics").text
    assert "dino_store_rows 6.0" in text
    assert 'dino_stage_seconds_count{stage="search"} 1.0' in text
    assert 'dino_requests_total{method="POST",route="/v1/search",status="200"} 1.0' in text


def test_the_one_model_is_listed_as_openai_does_and_any_name_means_it(steady):
    (model,) = steady.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("vit_micro", "model") and model["created"] > 1.7e9
    assert steady.get("/v1/models/vit_micro").json() == model
    assert steady.get("/v1/models/other").json()["error"]["code"] == "model_not_found"
    for more in ({}, {"model": "text-embedding-3-small"}):
        answer = steady.post("/v1/embeddings", json={"input": data_uri(picture_bytes()), **more})
        assert answer.json()["model"] == "vit_micro"


def test_the_documentation_needs_no_other_server(steady):
    page = steady.get("/docs").text
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(files) >= 3 and all(file.startswith("/docs/files/") for file in files)
    for file in files:
        assert steady.get(file).status_code == 200
