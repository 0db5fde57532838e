"""Items of an index, read and compared."""

from contextlib import closing

import numpy as np

from dino_app.store.opening import open_store

ROUNDING = 1e-5  # of float32, where batches hold other images


def items_of(location):
    with closing(open_store(location)) as store:
        return {item.id: item for part in store.items() for item in part}


def assert_same_items(found, expected):
    assert found.keys() == expected.keys()
    for id, item in expected.items():
        assert dict(found[id].metadata) == dict(item.metadata)
        assert found[id].thumbnail == item.thumbnail
        np.testing.assert_allclose(found[id].vector, item.vector, atol=ROUNDING)
