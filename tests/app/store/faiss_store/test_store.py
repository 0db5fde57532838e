"""The embedded store keeps the contract of every store."""

import pytest

from tests.app.store.conformance import StoreContract


class TestFaissStore(StoreContract):
    @pytest.fixture
    def parent(self, tmp_path):
        return tmp_path

    def tidy(self, store):
        store.merge()
