"""Attention as pictures and arrays."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.app.server.conftest import code_of, data_uri, picture_bytes


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
