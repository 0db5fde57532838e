"""Votes of neighbours."""

from functools import partial

from dino_app.server.app import create_app
from tests.app.server.conftest import HeavyStore, ask_beside_livez, code_of, served


def test_long_texts_are_no_classes(embedder, dim):
    with served(create_app(embedder, HeavyStore(dim, field="label"))) as client:
        asked = {"vector": [1.0] * dim, "k": 1000}
        answer = ask_beside_livez(client, partial(client.post, "/v1/classify", json=asked))
    assert (answer.status_code, code_of(answer)) == (413, "answer_too_large")
