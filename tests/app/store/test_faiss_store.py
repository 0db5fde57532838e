"""The embedded store keeps the contract of every store."""

import pytest

from dino_app.store.faiss_store import FaissStore
from tests.app.store.conformance import DIM, StoreContract


class TestFaissStore(StoreContract):
    @pytest.fixture
    def new_store(self, tmp_path):
        stores = []

        def new(*, dim=DIM, model=None):
            folder = tmp_path / f"store-{len(stores)}"
            stores.append(FaissStore.create(folder, dim=dim, model=model or {}))
            stores[-1].folder = folder
            return stores[-1]

        yield new
        for store in stores:
            store.close()

    @pytest.fixture
    def reopened(self):
        def reopen(store):
            store.close()
            again = FaissStore.open(store.folder, writable=True)
            again.folder = store.folder
            return again

        return reopen

    def tidy(self, store):
        store.merge()
