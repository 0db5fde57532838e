"""Every endpoint, asked as a client would."""

import base64
import io
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from dino_app.server.app import create_app
from tests.app.server.conftest import code_of, data_uri, picture_bytes, served

SAME = 1e-5  # float32 through JSON, and another batch


def test_embeddings_are_those_of_the_embedder(steady, embedder):
    pictures = [picture_bytes(seed=seed) for seed in range(3)]
    asked = {"model": "vit_micro", "input": [data_uri(picture) for picture in pictures]}
    answer = steady.post("/v1/embeddings", json=asked)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    expected = embedder([Image.open(io.BytesIO(picture)) for picture in pictures])
    np.testing.assert_allclose([row["embedding"] for row in body["data"]], expected, atol=SAME)
    assert [row["index"] for row in body["data"]] == [0, 1, 2]
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_embeddings_come_as_base64_of_float32(steady, embedder):
    picture = picture_bytes()
    asked = {"model": "vit_micro", "input": data_uri(picture), "encoding_format": "base64"}
    row = steady.post("/v1/embeddings", json=asked).json()["data"][0]["embedding"]
    expected = embedder([Image.open(io.BytesIO(picture))])[0]
    got = np.frombuffer(base64.b64decode(row), dtype="<f4")
    np.testing.assert_allclose(got, expected, atol=SAME)


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
    ("change", "status", "code"),
    [
        ({"model": "other"}, 404, "model_not_found"),
        ({"dimensions": 3}, 400, "invalid_dimensions"),
        ({"input": []}, 422, "invalid_value"),
        ({"more": 1}, 422, "invalid_value"),
        ({"input": "%%%"}, 400, "invalid_base64"),
        ({"input": "data:image/png;base64"}, 400, "invalid_data_uri"),
        ({"input": "data:image/png,abc"}, 415, "image_unsupported"),
        ({"input": "data:image/png;base64,AA=A"}, 400, "invalid_base64"),
        ({"input": "data:image/png;base64,AAAAA"}, 400, "invalid_base64"),
        ({"input": "AAAA\u00e9"}, 400, "invalid_base64"),
        ({"input": data_uri(b"no picture at all")}, 415, "image_unsupported"),
        ({"input": data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>")}, 415, None),
        ({"input": data_uri(picture_bytes()[:-40])}, 400, "image_corrupt"),
        ({"input": "http://example.com/a.jpg"}, 400, "url_input_off"),
        ({"input": [data_uri(picture_bytes())] * 33}, 413, "too_many_images"),
    ],
)
def test_embeddings_that_cannot_be_made_say_why(steady, change, status, code):
    asked = {"model": "vit_micro", "input": data_uri(picture_bytes())} | change
    answer = steady.post("/v1/embeddings", json=asked)
    assert answer.status_code == status, answer.text
    assert code_of(answer) == code or code is None


def test_a_search_by_vector_finds_the_nearest_first(steady, dim):
    vector = np.eye(dim)[2].tolist()
    body = steady.post("/v1/search", json={"vector": vector, "k": 3}).json()
    assert body["results"][0]["id"] == "a/2.jpg"
    assert body["results"][0]["metadata"] == {"label": "dog", "year": 2022}
    assert body["exact"] and body["snapshot"] and len(body["results"]) == 3
    scores = [result["score"] for result in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert set(body["timing_ms"]) == {"subject", "search", "total"}


def test_a_vector_may_come_as_base64(steady, dim):
    text = base64.b64encode(np.eye(dim, dtype="<f4")[4].tobytes()).decode()
    body = steady.post("/v1/search", json={"vector": text, "k": 1}).json()
    assert body["results"][0]["id"] == "a/4.jpg"


def test_a_search_by_image_works_as_json_and_as_a_form(client):
    picture = picture_bytes(format="JPEG")
    client.put("/v1/items/me", files={"file": ("../../x.jpg", picture)})
    by_json = client.post("/v1/search", json={"image": data_uri(picture), "k": 2}).json()
    form = {"k": "2", "include": '["metadata"]'}
    by_form = client.post("/v1/search", files={"file": picture}, data=form).json()
    assert by_json["results"][0]["id"] == by_form["results"][0]["id"] == "me"
    assert by_json["results"][0]["score"] == pytest.approx(1, abs=SAME)


def test_a_search_by_id_leaves_the_item_out(steady):
    body = steady.post("/v1/search", json={"id": "a/0.jpg", "k": 10}).json()
    assert len(body["results"]) == 5
    assert "a/0.jpg" not in [result["id"] for result in body["results"]]


def test_a_filter_and_what_to_include_are_kept(steady, dim):
    asked = {
        "vector": [1.0] * dim, "k": 10, "filter": {"label": "cat", "year": {"$gte": 2022}},
        "include": ["vector"],
    }  # fmt: skip
    results = steady.post("/v1/search", json=asked).json()["results"]
    assert sorted(result["id"] for result in results) == ["b/3.jpg", "b/5.jpg"]
    assert all(r["metadata"] is None and len(r["vector"]) == dim for r in results)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"k": 0}, 422),
        ({"k": -1}, 422),
        ({"k": 10**9}, 422),
        ({"k": 1.5}, 422),
        ({"vector": [1.0, 2.0]}, 400),
        ({"vector": [0.0] * 64}, 400),
        ({"vector": [1e300] * 63}, 400),
        ({"vector": "AAAA"}, 400),
        ({"vector": "AAA"}, 400),
        ({"id": "a/0.jpg"}, 422),
        ({"vector": None, "id": "none"}, 404),
        ({"vector": None}, 422),
        ({"filter": {"$what": 1}}, 400),
        ({"filter": {"year": {"$gt": True}}}, 400),
        ({"filter": [1]}, 422),
        ({"include": ["thumbnail"]}, 422),
        ({"params": {"ef": 0}}, 422),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(steady, dim, change, status):
    answer = steady.post("/v1/search", json={"vector": [1.0] * dim} | change)
    assert answer.status_code == status, answer.text
    code_of(answer)


def test_a_batch_gives_each_search_its_own_answer(steady, dim):
    searches = [{"vector": np.eye(dim)[i].tolist(), "k": i % 2 + 1} for i in range(6)]
    searches.append({"id": "a/0.jpg", "k": 1, "filter": {"label": "dog"}})
    results = steady.post("/v1/search:batch", json={"searches": searches}).json()["results"]
    found = [one["results"][0]["id"] for one in results[:6]]
    assert found == ["a/0.jpg", "b/1.jpg", "a/2.jpg", "b/3.jpg", "a/4.jpg", "b/5.jpg"]
    assert [len(one["results"]) for one in results] == [1, 2, 1, 2, 1, 2, 1]


def test_one_and_true_are_different_filters_in_one_batch(client, dim):
    vector = [1.0] * dim
    for id, value in (("number", 1), ("truth", True)):
        client.put(f"/v1/items/{id}", json={"vector": vector, "metadata": {"v": value}})
    searches = [{"vector": vector, "filter": {"v": value}} for value in (1, True, 1, True)]
    results = client.post("/v1/search:batch", json={"searches": searches}).json()["results"]
    found = [[hit["id"] for hit in one["results"]] for one in results]
    assert found == [["number"], ["truth"], ["number"], ["truth"]]


def test_an_item_is_put_got_listed_and_deleted(client, dim):
    put = client.put("/v1/items/new", json={"vector": [1.0] * dim, "metadata": {"n": 1}})
    assert put.json()["items"] == [{"id": "new", "status": "ok", "error": None}]
    found = client.post("/v1/search", json={"id": "new"}).json()
    assert found["snapshot"] == put.json()["snapshot"]
    got = client.get("/v1/items/new", params={"include": "vector"}).json()
    assert got["metadata"] == {"n": 1}
    np.testing.assert_allclose(np.linalg.norm(got["vector"]), 1, atol=SAME)
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


def test_a_class_is_the_vote_of_the_neighbours(steady, dim):
    asked = {"vector": (np.eye(dim)[1] + 0.5 * np.eye(dim)[0]).tolist(), "k": 2}
    body = steady.post("/v1/classify", json=asked | {"temperature": 0.1}).json()
    assert body["label"] == "cat"
    assert [n["id"] for n in body["neighbors"]] == ["b/1.jpg", "a/0.jpg"]
    near, far = (n["score"] for n in body["neighbors"])
    share = 1 / (1 + np.exp((far - near) / 0.1))
    assert body["probabilities"][0]["probability"] == pytest.approx(share, rel=1e-4)
    other = steady.post("/v1/classify", json=asked | {"label": "nothing"}).json()
    assert other["label"] is None and other["neighbors"] == []


def test_of_equally_near_items_the_class_of_the_first_wins(client, dim):
    items = [
        {"id": id, "vector": np.eye(dim)[2].tolist(), "metadata": {"twin": label}}
        for id, label in (("y/0.jpg", "zebra"), ("y/1.jpg", "ant"))
    ]
    assert client.post("/v1/items", json={"items": items}).status_code == 200
    for k in (1, 2):
        asked = {"vector": np.eye(dim)[2].tolist(), "k": k, "label": "twin"}
        body = client.post("/v1/classify", json=asked).json()
        assert (body["label"], body["neighbors"][0]["id"]) == ("zebra", "y/0.jpg")


def test_attention_comes_as_a_picture_or_as_arrays(steady):
    picture = picture_bytes(size=(64, 96))
    asked = {"image": data_uri(picture), "size": 64}
    sheet = steady.post("/v1/attention", json=asked)
    assert sheet.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(sheet.content)).width > 300
    one = steady.post("/v1/attention", files={"file": picture}, data={"heads": "mean", "size": 64})
    assert Image.open(io.BytesIO(one.content)).size == (96, 64)
    arrays = steady.post("/v1/attention", json=asked | {"format": "npz"})
    with np.load(io.BytesIO(arrays.content), allow_pickle=False) as found:
        assert found["attention"].shape[1:] == (8, 12)
        assert found["masks"].dtype == bool


@pytest.mark.parametrize(
    ("change", "status"),
    [({"heads": 99}, 400), ({"layer": 99}, 400), ({"threshold": 0}, 422), ({"size": 5000}, 422)],
)
def test_attention_that_is_not_there_is_refused(steady, change, status):
    asked = {"image": data_uri(picture_bytes()), "size": 32} | change
    answer = steady.post("/v1/attention", json=asked)
    assert answer.status_code == status, answer.text
    code_of(answer)


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


def test_without_an_index_its_endpoints_say_so(embedder):
    with served(create_app(embedder)) as client:
        asked = {"model": "vit_micro", "input": data_uri(picture_bytes())}
        assert client.post("/v1/embeddings", json=asked).status_code == 200
        for method, path, body in [
            ("POST", "/v1/search", {"id": "a"}), ("GET", "/v1/items", None),
            ("POST", "/v1/items", {"items": [{"id": "a", "vector": [1.0]}]}),
            ("GET", "/v1/items/a", None), ("GET", "/v1/snapshots", None),
            ("POST", "/v1/classify", {"id": "a"}), ("DELETE", "/v1/items/a", None),
        ]:  # fmt: skip
            answer = client.request(method, path, json=body)
            assert (answer.status_code, code_of(answer)) == (404, "no_index"), path
        assert client.get("/readyz").status_code == 200
        assert client.get("/v1/info").json()["index"] is None


def test_a_server_that_only_reads_refuses_writes(embedder, store):
    with served(create_app(embedder, store, read_only=True)) as client:
        answers = [
            client.put("/v1/items/x", json={"vector": [1.0] * store.info().dim}),
            client.delete("/v1/items/a/0.jpg"),
            client.post("/v1/snapshots", json={"name": "x"}),
        ]
        assert [code_of(answer) for answer in answers] == ["read_only"] * 3
        assert client.get("/v1/items/a/0.jpg").status_code == 200
