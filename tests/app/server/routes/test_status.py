"""Facts about a server, and how it does."""


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
