"""Vectors of odd numbers, or none."""

import base64
import io

import numpy as np
import pytest


@pytest.mark.parametrize(
    "vector", [[0.0], [1e-45], [3e38], [-0.0], [5e-324], [1.7e308]], ids=lambda v: str(v[0])
)
def test_odd_vectors_have_a_direction_or_are_refused(steady, dim, vector):
    answer = steady.post("/v1/search", json={"vector": vector * dim, "k": 1})
    assert answer.status_code == (200 if 0 < abs(vector[0]) < 1e300 else 400)
    if answer.status_code == 200:
        assert abs(answer.json()["results"][0]["score"]) <= 1.0001


def test_a_pickled_array_is_no_vector(steady):
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    text = base64.b64encode(file.getvalue()).decode()
    assert steady.post("/v1/search", json={"vector": text}).status_code == 400
