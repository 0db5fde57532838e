"""Plans of indexes against an index that is built, and against what was measured."""

import numpy as np
import pytest

from dino_app.cli.index import main
from dino_app.indexing.plan import IndexCost, index_plan
from dino_app.store.faiss_store.search import approximate
from tests.infer.features.test_plan import figures


def test_codes_take_the_bytes_that_an_index_takes(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((20_000, 64), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    approximate.built(vectors, kind="IVF16,RaBitQfs").write(tmp_path / "index")
    centres = 16 * 64 * 4
    planned = IndexCost(rows=20_000, dim=64).rows * 1.1 * (64 / 8 + 16)
    assert (tmp_path / "index").stat().st_size - centres == pytest.approx(planned, rel=0.1)


def test_a_small_index_is_exact_and_a_large_one_is_parted():
    assert "exact" in str(index_plan(200_000, dim=384))
    assert IndexCost(rows=1_000_000, dim=384).lists == 1024
    assert figures(index_plan(10**9, dim=384, memory_gb=256))["parts"] == 50
    assert figures(index_plan(10**9, dim=384, memory_gb=2))["parts"] == 71


def test_copies_answer_as_many_queries_as_are_wanted():
    one = figures(index_plan(10**6, dim=384))
    many = figures(index_plan(10**6, dim=384, queries_per_s=10 * one["a machine"]))
    assert (one["machines"], many["copies"], many["machines"]) == (1, 10, 10)


def test_a_plan_is_printed_and_bad_numbers_are_refused(capsys):
    assert main("plan --images 1e6 --price-per-tb-month 20".split()) == 0
    assert "money, storage" in capsys.readouterr().out
    assert main("plan --images 1.5".split()) == 2
    assert "--images must be a whole number" in capsys.readouterr().err
