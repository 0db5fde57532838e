"""Counts of networks, and how a plan is printed."""

import pytest

from dino_infer.errors import DataError
from dino_infer.plan import Figure, Plan, Prices, counted, duration, size


def test_the_flop_of_a_vit_are_those_of_its_matrix_products():
    tokens, dim = 14 * 14 + 1, 384
    patches = (tokens - 1) * 3 * 16 * 16 * dim
    block = 12 * dim**2 * tokens + 2 * tokens**2 * dim
    last = 3 * dim**2 * tokens + 2 * tokens * dim + 9 * dim**2  # [CLS] alone after the keys
    found = counted("vit_small", patch_size=16, side=224)
    assert found.flop == pytest.approx(2 * (patches + 11 * block + last), rel=1e-3)
    assert (found.width, found.parameters) == (384, 21_665_664)  # as published


def test_a_network_that_is_none_is_an_error_of_one_line():
    with pytest.raises(DataError, match="no plan for vit_smal at 224 pixels: .*vit_small"):
        counted("vit_smal", patch_size=16, side=224)


def test_a_source_is_listed_once_and_money_only_where_prices_are_given():
    plan = Plan("Title")
    first, second = Figure(1, "one report"), Figure(2, "another")
    plan.add("speed", "1", "why", first, second)
    plan.add("time", "22", "", first)
    plan.add_money(Prices(per_hour=2.0), machine_hours=3, stored_bytes=1e12)
    assert str(plan).splitlines() == [
        "Title",
        "",
        "  speed             1  why [1] [2]",
        "  time             22   [1]",
        "  money, machines   6  2 an hour",
        "",
        "  [1] one report",
        "  [2] another",
    ]


def test_figures_are_said_in_units_that_fit():
    assert [size(each) for each in (5e6, 1.5e9, 2.5e12, 3e15)] == [
        "5 MB",
        "1.5 GB",
        "2.5 TB",
        "3 PB",
    ]
    assert [duration(each) for each in (0.5, 12, 72)] == ["30 min", "12 h", "3 days"]
