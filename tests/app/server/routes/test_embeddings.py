"""Embeddings: those of the embedder, in the form that was asked for, or why not."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.app.server.conftest import code_of, data_uri, picture_bytes

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


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model": 3}, 422, "invalid_value"),
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
