"""Plans of embedding: what was measured or published comes out again, and machines share it."""

import re

import pytest

from dino_infer.cli.embed import main
from dino_infer.features.plan import embedding_plan
from dino_infer.plan import Prices


def figures(plan):
    return {
        what.strip(): float(re.match(r"[\d,.]+", figure)[0].replace(",", ""))
        for what, figure, _ in plan.lines
    }


def test_a_plan_says_what_was_measured_and_published():
    cpu = figures(embedding_plan(1000, machine="cpu"))
    assert cpu["the network"] == 25.7
    assert cpu["speed of a machine"] == pytest.approx(26.5, rel=0.1)  # embed_speed_2026-11.md
    assert figures(embedding_plan(1000, machine="rtx4090"))["the network"] == pytest.approx(
        8215, rel=2e-3
    )


def test_machines_share_the_time_and_cost_the_same():
    prices = Prices(per_hour=3.0, per_tb_month=20.0)
    one, ten = (embedding_plan(10**9, machines=count, prices=prices) for count in (1, 10))
    assert figures(one)["money, machines"] == figures(ten)["money, machines"] > 0
    limited = figures(embedding_plan(10**9, hours=10, prices=prices))
    assert limited["machines"] == 4 and limited["time"] < 10
    assert figures(one)["vectors"] == 1.54  # TB


def test_decoding_holds_up_a_gpu_and_more_cores_help():
    few, many = (embedding_plan(10**9, cores=cores) for cores in (16, 128))
    assert figures(few)["speed of a machine"] == figures(few)["decoding"]
    assert figures(many)["speed of a machine"] == figures(many)["the network"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("--images 0", "--images must be a whole number from 1, got 0"),
        (
            "--images 5 --machine v100",
            "no speed of embedding on v100 is known; pass --images-per-s",
        ),
        ("--images 5 --machines 2 --within-hours 3", "pass --machines or --within-hours, not both"),
        ("--images 5 --arch vit_smal", "no plan for vit_smal"),
    ],
)
def test_what_makes_no_plan_is_refused_in_one_line(given, line, capsys):
    assert main(["--plan", *given.split()]) in (1, 2)
    shown = capsys.readouterr()
    assert line in shown.err and not shown.out and shown.err.count("\n") == 1
