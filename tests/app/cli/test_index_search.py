"""dino-index search: nearest pictures by picture, item and vector."""

import json
from contextlib import closing

import numpy as np
import pytest

from dino_app.errors import StoreError
from dino_app.indexing.indexes import check_exact
from dino_app.store.faiss_store import FaissStore
from dino_app.store.interface import SearchParams


def test_an_item_is_not_its_own_neighbour_and_filters_hold(dino_index, built):
    found = dino_index("search", built.index, "--id", "cat/0.png", "--json", "-k", 30)
    results = json.loads(found.out)["results"]
    assert len(results) == 15 and "cat/0.png" not in [hit["id"] for hit in results]
    scores = [hit["score"] for hit in results]
    assert scores == sorted(scores, reverse=True)
    chosen = dino_index(
        *("search", built.index, "--id", "cat/0.png", "--json"),
        *("--filter", '{"label": "coffee"}'),
    )
    labels = {hit["metadata"]["label"] for hit in json.loads(chosen.out)["results"]}
    assert labels == {"coffee"}


@pytest.mark.parametrize("given", [["--device", "cpu"], ["--size", "32"], ["--arch", "vit_small"]])
def test_flags_of_embedding_are_refused_where_nothing_is_embedded(dino_index, built, given):
    found = dino_index("search", built.index, "--id", "cat/0.png", *given)
    assert found.code == 2 and "are for --image" in found.err


def test_exact_is_refused_where_an_index_cannot_be(built):
    with closing(FaissStore.open(built.index)) as store:
        approximate = store.search(np.ones((1, 128)), k=1)._replace(exact=False)
    check_exact(approximate, SearchParams())
    with pytest.raises(StoreError, match="cannot compare with every vector; leave `exact` out"):
        check_exact(approximate, SearchParams(exact=True))
