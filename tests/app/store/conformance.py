"""What every store must do: subclass ``StoreContract`` and give it a fixture ``parent``.

The location of each new store is a name below ``parent``.
"""

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from dino_app.errors import StoreError
from dino_app.store.filters import parsed_filter
from dino_app.store.interface import MAX_ID_BYTES, Found, Item, SearchParams, Store
from dino_app.store.opening import create_store, open_store
from tests.app.store.oracle import NumpyStore, score

REFUSED = (ValueError, TypeError)  # TypeError where the shape checks of the suite come first
SCORE_TOLERANCE = 2e-6  # float32 sums in another order
DIM = 8
MODEL = {"weights_sha256": "ab" * 32, "preprocess": {"size": 224}, "feature": "cls"}
ODD_IDS = [
    " ",
    "a b/c.jpg",
    "../../etc/passwd",
    "it's",
    'say "x"',
    "back\\slash",
    "%like_",
    "100%",
    "ümlaut",
    "😀",
    "漢字",
    "{}",
    "null",
    "'); DROP TABLE items; --",
    "a" * MAX_ID_BYTES,
    "ü" * (MAX_ID_BYTES // 2),
]
FILTERS = [
    {},
    {"label": "cat"},
    {"label": 'o\'clock "x" \\ %_'},
    {"label": {"$ne": "cat"}},
    {"label": {"$gt": "cat", "$lte": "fox"}},
    {"label": {"$in": ["cat", "fox", 3]}},
    {"label": {"$in": []}},
    {"label": {"$exists": False}},
    {"label": {"$exists": True}},
    {"label": True},
    {"n": 3},
    {"n": 3.0},
    {"n": "3"},
    {"n": {"$gte": 2, "$lt": 7.5}},
    {"n": {"$ne": 2}},
    {"n": {"$in": [1, 2.5, "cat", True]}},
    {"n": 2**53 + 1},
    {"n": {"$gt": 2**53}},
    {"flag": True},
    {"flag": {"$ne": True}},
    {"flag": 1},
    {"odd name.with 'quotes\"": 1},
    {"$or": [{"label": "cat"}, {"n": {"$lt": 2}}]},
    {"$and": [{"label": "cat"}, {"flag": True}]},
    {"$not": {"label": "cat"}},
    {"$not": {"$or": [{"n": {"$exists": True}}, {"flag": False}]}},
    {"$or": []},
    {"$and": []},
    {"nowhere": {"$exists": False}},
]


def items_of(vectors: np.ndarray, *, prefix: str = "item", **metadata) -> list[Item]:
    return [
        Item(id=f"{prefix}-{i:04}", vector=vector, metadata={"n": i, **metadata})
        for i, vector in enumerate(np.asarray(vectors, np.float32))
    ]


def labelled_items(rng: np.random.Generator, count: int = 60) -> list[Item]:
    """Items whose fields are of several types, or missing."""
    labels = ["cat", "dog", "fox", "Cat", "ümlaut", 'o\'clock "x" \\ %_', "", True, 3, None]
    numbers = [0, 1, 2, 3, 2.5, -1, 7.5, 1e300, 2**53, 2**53 + 1, "3", True, None]
    flags = [True, False, 1, None]
    found = []
    for i in range(count):
        fields = {
            "label": labels[rng.integers(len(labels))],
            "n": numbers[rng.integers(len(numbers))],
            "flag": flags[rng.integers(len(flags))],
            "odd name.with 'quotes\"": 1 if i % 5 == 0 else None,
        }
        metadata = {name: value for name, value in fields.items() if value is not None}
        vector = rng.standard_normal(DIM).astype(np.float32)
        found.append(Item(id=f"item-{i:02}", vector=vector, metadata=metadata))
    return found


def assert_same_hits(found: Found, expected: Found, oracle: NumpyStore, queries: np.ndarray):
    """Equal but for the order of scores that rounding cannot tell apart."""
    assert len(found.hits) == len(expected.hits)
    for query, hits, wanted in zip(queries, found.hits, expected.hits, strict=True):
        assert len(hits) == len(wanted)
        assert len({hit.id for hit in hits}) == len(hits)
        for hit, want in zip(hits, wanted, strict=True):
            assert hit.score == pytest.approx(want.score, abs=SCORE_TOLERANCE)
            if hit.id != want.id:
                (item,) = oracle.get([hit.id])
                true_score = score(query, item.vector)
                assert true_score == pytest.approx(want.score, abs=SCORE_TOLERANCE)


def assert_same_items(found: Sequence[Item | None], expected: Sequence[Item | None]):
    assert [item and item.id for item in found] == [item and item.id for item in expected]
    for item, want in zip(found, expected, strict=True):
        if item is None:
            continue
        assert dict(item.metadata) == dict(want.metadata)
        kinds = {name: type(value) for name, value in item.metadata.items()}
        assert kinds == {name: type(value) for name, value in want.metadata.items()}
        np.testing.assert_allclose(item.vector, want.vector, atol=SCORE_TOLERANCE)
        assert item.vector.dtype == np.float32 and item.thumbnail == want.thumbnail


def assert_same_store(store: Store, oracle: NumpyStore):
    """All items, and searches for some of them."""
    everything = [item for part in store.items(batch=7) for item in part]
    wanted = [item for part in oracle.items() for item in part]
    assert_same_items(
        sorted(everything, key=lambda item: item.id), sorted(wanted, key=lambda item: item.id)
    )
    assert store.count() == store.info().rows == len(wanted)
    if wanted:
        queries = np.stack([item.vector for item in wanted[:5]])
        found = store.search(queries, k=4, params=SearchParams(exact=True))
        assert_same_hits(found, oracle.search(queries, k=4), oracle, queries)


_VECTORS = st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any)
_VALUES = st.one_of(
    st.integers(-3, 3), st.sampled_from([0.5, 2.0, "a", "b", "A", ""]), st.booleans()
)
_METADATA = st.dictionaries(st.sampled_from(["a", "b"]), _VALUES, max_size=2)
_IDS = st.sampled_from([f"id{i}" for i in range(8)])
_ITEMS = st.builds(
    lambda id, vector, metadata: Item(id=id, vector=np.float32(vector), metadata=metadata),
    _IDS,
    _VECTORS,
    _METADATA,
)
_CONDITIONS = st.one_of(
    st.builds(lambda value: value, _VALUES),
    st.builds(lambda operator, value: {operator: value}, st.sampled_from(["$eq", "$ne"]), _VALUES),
    st.builds(
        lambda operator, value: {operator: value},
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]),
        _VALUES.filter(lambda value: not isinstance(value, bool)),
    ),
    st.builds(lambda values: {"$in": values}, st.lists(_VALUES, max_size=3)),
    st.builds(lambda wanted: {"$exists": wanted}, st.booleans()),
)
_FILTERS = st.recursive(
    st.dictionaries(st.sampled_from(["a", "b"]), _CONDITIONS, max_size=2),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, max_size=2)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, max_size=2)),
        st.builds(lambda part: {"$not": part}, inner),
    ),
    max_leaves=3,
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("upsert"), st.lists(_ITEMS, min_size=1, max_size=4)),
        st.tuples(st.just("delete"), st.lists(_IDS, max_size=3)),
        st.tuples(st.just("search"), st.tuples(_VECTORS, st.integers(1, 9), _FILTERS)),
        st.tuples(st.just("page"), st.tuples(st.none() | _IDS, st.integers(1, 5), _FILTERS)),
        st.tuples(st.just("tidy"), st.none()),
    ),
    max_size=12,
)


class StoreContract:
    """Tests that every store passes."""

    EXAMPLES = 40
    numbers = itertools.count()

    @pytest.fixture
    def parent(self):
        raise NotImplementedError

    @pytest.fixture
    def new_store(self, parent):
        """Makes an empty store in a place of its own."""
        stores = []

        def new(*, dim=DIM, model=None):
            location = f"{parent}/store_{next(self.numbers)}"
            stores.append(create_store(location, dim=dim, model=model or {}))
            stores[-1].location = location
            return stores[-1]

        yield new
        for store in stores:
            store.close()

    @pytest.fixture
    def reopened(self):
        """Closes a store and opens the same place again."""

        def reopen(store):
            store.close()
            again = open_store(store.location, writable=True)
            again.location = store.location
            return again

        return reopen

    def tidy(self, store: Store) -> None:
        """What the back end does in the background, now."""

    @pytest.fixture
    def store(self, new_store):
        return new_store()

    def test_a_new_store_is_empty(self, new_store):
        store = new_store(model=MODEL)
        info = store.info()
        assert (info.dim, info.rows, info.deleted, dict(info.model)) == (DIM, 0, 0, MODEL)
        assert store.search(np.ones((2, DIM)), k=3).hits == [[], []]
        assert store.get(["a"]) == [None] and store.thumbnail("a") is None
        assert store.count() == 0 and store.page() == [] and list(store.items()) == []
        assert store.delete(["a"]) == [] and store.snapshots() == []

    def test_items_come_back_as_they_went_in(self, store):
        metadata = {"i": 3, "f": 3.0, "t": "3", "b": True, "big": 2**63 - 1, "e": "", "😀": "ü\n"}
        vector = np.arange(DIM) - 2.5
        item = Item(id="a", vector=vector.astype(np.float32), metadata=metadata, thumbnail=b"\0w")
        store.upsert([item, Item(id="b", vector=np.ones(DIM, np.float32))])
        a, none, b = store.get(["a", "x", "b"])
        unit = (vector / np.linalg.norm(vector)).astype(np.float32)
        assert_same_items([a], [replace(item, vector=unit, thumbnail=None)])
        assert none is None and dict(b.metadata) == {} and b.thumbnail is None
        assert store.thumbnail("a") == b"\0w" and store.thumbnail("b") is None
        store.upsert([a])
        np.testing.assert_array_equal(store.get(["a"])[0].vector, a.vector)

    def test_odd_ids_are_kept_apart(self, store):
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((len(ODD_IDS), DIM)).astype(np.float32)
        items = [Item(id=id, vector=row) for id, row in zip(ODD_IDS, rows, strict=True)]
        store.upsert(items)
        for id, row in zip(ODD_IDS, rows, strict=True):
            assert store.search(row[None], k=1).hits[0][0].id == id
        assert [item.id for item in store.page()] == sorted(ODD_IDS, key=str.encode)
        assert store.delete(ODD_IDS[:3]) == ODD_IDS[:3]
        assert [item is None for item in store.get(ODD_IDS)] == [i < 3 for i in range(len(items))]

    def test_an_item_is_replaced_whole(self, store):
        old = Item(id="a", vector=np.ones(DIM, np.float32), metadata={"x": 1}, thumbnail=b"o")
        store.upsert([old])
        store.upsert([Item(id="a", vector=np.eye(DIM, dtype=np.float32)[1], metadata={"y": 2})])
        assert store.count() == 1 and dict(store.get(["a"])[0].metadata) == {"y": 2}
        assert store.thumbnail("a") is None
        assert store.search(np.eye(DIM)[:1], k=5).hits[0][0].score == pytest.approx(0, abs=1e-6)

    def test_of_items_with_one_id_the_last_counts(self, store):
        items = items_of(np.eye(DIM)[:2])
        store.upsert([replace(item, id="same") for item in items])
        assert store.count() == 1 and store.get(["same"])[0].metadata["n"] == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"id": ""},
            {"id": "a\nb"},
            {"id": "a\0"},
            {"id": "\x7f"},
            {"id": "ü" * 513},
            {"id": "\ud800"},
            {"id": 3},
            {"vector": np.full(DIM, np.nan, np.float32)},
            {"vector": np.full(DIM, np.inf, np.float32)},
            {"vector": np.zeros(DIM, np.float32)},
            {"vector": np.ones(DIM + 1, np.float32)},
            {"vector": np.ones((1, DIM), np.float32)},
            {"metadata": {"a": [1]}},
            {"metadata": {"a": None}},
            {"metadata": {"a": float("nan")}},
            {"metadata": {"a": 2**63}},
            {"metadata": {"a": "\ud800"}},
            {"metadata": {"$a": 1}},
            {"metadata": {"": 1}},
        ],
    )
    def test_a_wrong_item_is_refused_and_nothing_stored(self, store, change):
        good = items_of(np.eye(DIM))
        version = store.info().version
        with pytest.raises(REFUSED):
            store.upsert([*good, replace(good[0], **change)])
        assert store.count() == 0 and store.info().version == version

    def test_very_small_and_very_large_vectors_are_scaled(self, store):
        rows = np.outer([1e-40, 1e-20, 1e37], np.arange(1, DIM + 1)).astype(np.float32)
        store.upsert(items_of(rows))
        norms = [np.linalg.norm(item.vector) for item in store.page()]
        assert norms == pytest.approx([1, 1, 1], abs=1e-5)  # 1e-40 has few digits

    @pytest.mark.parametrize("tidied", [False, True])
    @pytest.mark.parametrize("k", [1, 10, 500])
    def test_search_equals_numpy(self, store, k, tidied):
        rng = np.random.default_rng(k)
        oracle = NumpyStore(dim=DIM)
        for both in (store, oracle):
            rng = np.random.default_rng(k)
            both.upsert(items_of(rng.standard_normal((300, DIM))))
            if tidied:
                self.tidy(both) if both is store else None
            both.delete([f"item-{i:04}" for i in range(0, 300, 7)])
            both.upsert(items_of(rng.standard_normal((50, DIM)), prefix="new"))
            both.upsert(items_of(rng.standard_normal((20, DIM))))
        queries = rng.standard_normal((20, DIM))
        found = store.search(queries, k=k, params=SearchParams(exact=True))
        assert found.exact and found.version == store.info().version
        assert_same_hits(found, oracle.search(queries, k=k), oracle, queries)
        assert_same_store(store, oracle)

    @pytest.mark.parametrize("tidied", [False, True])
    def test_equal_scores_come_in_the_order_of_their_ids(self, store, tidied):
        ids = [f"i{i}" for i in range(40)] + ["z", "ü", "😀", "￿", "A", "~"]
        rng = np.random.default_rng(0)
        same = Item(id="", vector=rng.standard_normal(DIM).astype(np.float32))
        order = rng.permutation(len(ids))
        store.upsert([replace(same, id=ids[i]) for i in order[:30]])
        if tidied:
            self.tidy(store)
        store.upsert([replace(same, id=ids[i]) for i in order[30:]])
        expected = sorted(ids, key=str.encode)
        for k in (1, 3, 45, 60):
            (hits,) = store.search(same.vector[None], k=k).hits
            assert [hit.id for hit in hits] == expected[:k]
            assert {hit.score for hit in hits} == {hits[0].score}

    def test_hits_carry_what_was_asked_for(self, store):
        store.upsert(items_of(np.eye(DIM), label="x"))
        query = np.eye(DIM)[:1]
        (hit,) = store.search(query, k=1).hits[0]
        assert hit.metadata is None and hit.vector is None
        (hit,) = store.search(query, k=1, include=["metadata", "vector"]).hits[0]
        assert hit.metadata == {"n": 0, "label": "x"}
        np.testing.assert_array_equal(hit.vector, np.eye(DIM, dtype=np.float32)[0])
        hit.vector[:] = 0
        hit.metadata["label"] = "changed"
        (hit,) = store.search(query, k=1, include=["metadata", "vector"]).hits[0]
        assert hit.metadata["label"] == "x" and hit.vector[0] == 1

    @pytest.mark.parametrize("k", [0, -1, 1001, 10**9, True, 2.0])
    def test_a_wrong_k_is_refused(self, store, k):
        with pytest.raises(REFUSED, match="k"):
            store.search(np.ones((1, DIM)), k=k)

    @pytest.mark.parametrize(
        "queries",
        [
            np.ones(DIM),
            np.ones((1, DIM - 1)),
            np.zeros((1, DIM)),
            np.full((2, DIM), np.nan),
            np.full((1, DIM), np.inf),
            np.full((1, DIM), "a"),
        ],
    )
    def test_wrong_queries_are_refused(self, store, queries):
        store.upsert(items_of(np.eye(DIM)))
        with pytest.raises(REFUSED):
            store.search(queries, k=1)

    def test_no_query_has_no_hits(self, store):
        assert store.search(np.zeros((0, DIM)), k=3).hits == []
        store.upsert(items_of(np.eye(DIM)))
        assert store.search(np.zeros((0, DIM)), k=3).hits == []
        exact = store.search(np.zeros((0, DIM)), k=3, params=SearchParams(exact=True))
        assert exact.hits == []

    @pytest.mark.parametrize("tidied", [False, True])
    def test_filters_mean_the_same_everywhere(self, store, tidied):
        oracle, rng = NumpyStore(dim=DIM), np.random.default_rng(1)
        items = labelled_items(rng)
        for both in (store, oracle):
            both.upsert(items[:40])
        if tidied:
            self.tidy(store)
        for both in (store, oracle):
            both.upsert(items[40:])
            both.delete([item.id for item in items[::9]])
        queries = rng.standard_normal((2, DIM))
        for written in FILTERS:
            condition = parsed_filter(written)
            assert store.count(condition) == oracle.count(condition), written
            found = store.search(queries, k=5, filter=condition)
            expected = oracle.search(queries, k=5, filter=condition)
            assert_same_hits(found, expected, oracle, queries)
            page = store.page(after="item-10", limit=7, filter=condition)
            assert_same_items(page, oracle.page(after="item-10", limit=7, filter=condition))

    def test_any_sequence_of_steps_equals_numpy(self, new_store, reopened):
        @settings(
            max_examples=self.EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(_STEPS)
        def run(steps):
            store, oracle = new_store(dim=3), NumpyStore(dim=3)
            for name, value in steps:
                self._step(store, oracle, name, value)
            assert_same_store(store, oracle)
            store = reopened(store)
            assert_same_store(store, oracle)
            store.close()

        run()

    def _step(self, store, oracle, name, value):
        match name:
            case "upsert":
                store.upsert(value)
                oracle.upsert(value)
            case "delete":
                assert store.delete(value) == oracle.delete(value)
            case "search":
                vector, k, written = value
                queries, condition = np.float32([vector]), parsed_filter(written)
                found = store.search(queries, k=k, filter=condition)
                expected = oracle.search(queries, k=k, filter=condition)
                assert_same_hits(found, expected, oracle, queries)
                assert store.count(condition) == oracle.count(condition)
            case "page":
                after, limit, written = value
                condition = parsed_filter(written)
                page = store.page(after=after, limit=limit, filter=condition)
                assert_same_items(page, oracle.page(after=after, limit=limit, filter=condition))
            case "tidy":
                self.tidy(store)

    def test_delete_names_what_was_there(self, store):
        store.upsert(items_of(np.eye(DIM)[:4]))
        assert store.delete(["item-0002", "no", "item-0000", "item-0002"]) == [
            "item-0002",
            "item-0000",
        ]
        assert store.delete(["item-0002"]) == [] and store.count() == 2
        assert [item.id for item in store.page()] == ["item-0001", "item-0003"]

    def test_pages_go_through_all_items_in_order(self, store):
        rng = np.random.default_rng(0)
        store.upsert(items_of(rng.standard_normal((25, DIM))))
        self.tidy(store)
        store.upsert(items_of(rng.standard_normal((25, DIM)), prefix="jtem"))
        store.delete(["item-0003", "jtem-0003"])
        seen, after = [], None
        while page := store.page(after=after, limit=9):
            seen += [item.id for item in page]
            after = page[-1].id
        assert seen == sorted(seen) and len(seen) == 48
        assert store.page(after="zzz") == [] and store.page(after="ite", limit=1)[0].id == seen[0]
        with pytest.raises(ValueError):
            store.page(limit=0)

    def test_copies_hold_thumbnails(self, store, new_store):
        items = items_of(np.eye(DIM))
        store.upsert([replace(item, thumbnail=item.id.encode()) for item in items[::2]])
        store.upsert(items[1::2])
        other = new_store()
        for part in store.items(batch=3):
            assert len(part) <= 3
            other.upsert(part)
        assert other.thumbnail("item-0002") == b"item-0002" and other.thumbnail("item-0001") is None
        assert_same_items(other.page(), store.page())

    def test_the_version_changes_with_every_write_and_only_then(self, store):
        versions = [store.info().version]
        versions.append(store.upsert(items_of(np.eye(DIM))))
        assert store.upsert([]) == versions[-1] and store.delete(["no"]) == []
        store.search(np.eye(DIM), k=1)
        assert store.info().version == versions[-1]
        store.delete(["item-0000"])
        versions.append(store.info().version)
        versions.append(store.upsert(items_of(np.eye(DIM)[:1])))
        assert len(set(versions)) == 4

    def test_everything_is_there_after_reopening(self, new_store, reopened):
        rng = np.random.default_rng(0)
        store, oracle = new_store(model=MODEL), NumpyStore(dim=DIM)
        for both in (store, oracle):
            rng = np.random.default_rng(0)
            items = labelled_items(rng)
            both.upsert([replace(item, thumbnail=item.id.encode()) for item in items])
            both.delete([item.id for item in items[:5]])
        version = store.info().version
        for _ in range(2):
            store = reopened(store)
            assert store.info().version == version and dict(store.info().model) == MODEL
            assert_same_store(store, oracle)
            self.tidy(store)
        assert store.upsert(items_of(np.eye(DIM))) != version

    def test_a_snapshot_can_be_restored_again_and_again(self, new_store, reopened):
        store, rng = new_store(), np.random.default_rng(0)
        first, second = NumpyStore(dim=DIM), NumpyStore(dim=DIM)
        early = items_of(rng.standard_normal((20, DIM)), label="early")
        late = items_of(rng.standard_normal((30, DIM)), label="late")
        early = [replace(item, thumbnail=b"early") for item in early]
        for both in (store, first, second):
            both.upsert(early)
        store.snapshot("first.1")
        for both in (store, second):
            both.upsert(late)
            both.delete(["item-0000"])
        store.snapshot("second")
        assert_same_store(store, second)
        versions = {store.info().version}
        for name, oracle in [("first.1", first), ("second", second), ("first.1", first)]:
            store.restore(name)
            versions.add(store.info().version)
            assert_same_store(store, oracle)
            store.upsert(items_of(np.eye(DIM), prefix="after"))
            assert store.count() == oracle.count() + DIM
            self.tidy(store)
            store = reopened(store)
            assert store.count() == oracle.count() + DIM
        assert len(versions) == 4 and store.snapshots() == ["first.1", "second"]

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "ü", "a b", "a" * 65, "~", "a\n"])
    def test_a_wrong_name_for_a_snapshot_is_refused(self, store, name):
        with pytest.raises(ValueError):
            store.snapshot(name)
        assert store.snapshots() == []

    def test_a_snapshot_is_never_overwritten(self, store):
        store.snapshot("once")
        with pytest.raises(ValueError, match="once"):
            store.snapshot("once")
        with pytest.raises(StoreError, match="never"):
            store.restore("never")

    def test_a_second_close_does_nothing(self, store):
        store.close()
        store.close()

    def test_threads_may_search_while_others_write(self, store):
        """Items come and go in groups of equal label; an answer holds whole groups."""
        rng, size = np.random.default_rng(0), 5
        groups = [
            items_of(rng.standard_normal((size, DIM)), prefix=f"g{g}", label=g) for g in range(8)
        ]
        stop, wrong = threading.Event(), []

        def search():
            while not stop.is_set():
                found = store.search(np.ones((1, DIM)), k=100, include=["metadata"])
                labels = [hit.metadata["label"] for hit in found.hits[0]]
                if any(labels.count(label) != size for label in labels):
                    wrong.append(labels)

        searchers = [threading.Thread(target=search) for _ in range(3)]
        for thread in searchers:
            thread.start()
        for _ in range(3):
            for group in groups:
                store.upsert(group)
            for group in groups[::2]:
                store.delete([item.id for item in group])
        stop.set()
        for thread in searchers:
            thread.join()
        assert not wrong and store.count() == 4 * size
