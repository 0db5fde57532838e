"""Encoded images as requests write them."""

import base64

import pytest

from dino_app.server.request_images import base64_bytes


@pytest.mark.parametrize("data", [b"a", b"ab", b"abc"])
def test_base64_may_have_its_padding_or_not(data):
    padded = base64.b64encode(data).decode()
    for text in (padded, padded.rstrip("="), f"data:;base64,{padded}"):
        assert base64_bytes(text, param="image", max_bytes=9) == data
