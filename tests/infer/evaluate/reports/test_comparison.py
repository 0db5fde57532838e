"""Comparison of scorecards: only what is beyond the spread counts as a difference."""

import json
import math

import pytest

from dino_infer.cli import eval as evaluation
from dino_infer.evaluate.reports.comparison import compare
from tests.infer.evaluate.reports.results import result


def side(*, values, spreads=None, data=None, settings=None):
    data = data or {"images": 9}
    return {"values": values, "spreads": spreads or {}, "data": data, "settings": settings or {}}


@pytest.mark.parametrize(
    ("b", "spread", "verdict"),
    [
        (60.0, 1.0, "equal"),
        (62.0, 1.0, "within the spread"),
        (62.9, 1.0, "better"),
        (57.1, 1.0, "worse"),
        (57.1, None, "no spread known"),
    ],
)
def test_a_difference_counts_beyond_two_standard_deviations(b, spread, verdict):
    spreads = {} if spread is None else {"top1_percent": spread}
    one = {"knn": side(values={"top1_percent": 60.0}, spreads=spreads)}
    other = {"knn": side(values={"top1_percent": b}, spreads=spreads)}
    [found] = compare(one, other).differences
    assert found.verdict == verdict
    assert found.difference == pytest.approx(b - 60)
    if spread is not None:
        assert found.spread == pytest.approx(math.sqrt(2) * spread)


def test_a_lower_decay_is_better():
    name = "j_decay_percent"
    one, other = (
        {"video": side(values={name: value}, spreads={name: 1.0})} for value in (20.0, 10.0)
    )
    assert compare(one, other).differences[0].verdict == "better"


def test_what_was_measured_on_other_data_is_named_and_not_compared():
    one = {
        "knn": side(values={"a": 1.0}, data={"train": {"source": "/x", "images": 12}}),
        "video": side(values={"a": 1.0}),
    }
    other = {
        "knn": side(values={"a": 1.0}, data={"train": {"source": "/y", "images": 13}}),
        "linear": side(values={"a": 1.0}),
    }
    found = compare(one, other)
    assert found.differences == []
    assert found.incomparable == [
        "knn was measured on other data: train is {'images': 12} and {'images': 13}",
        "video is only in A",
        "linear is only in B",
    ]
    other["knn"]["data"]["train"]["images"] = 12  # elsewhere, but as many
    assert [one.verdict for one in compare(one, other).differences] == ["equal"]


def test_other_settings_are_named_and_those_of_the_network_are_not():
    one, other = (
        {
            "segmentation": side(
                values={"a": 1.0},
                settings={
                    "size": size,
                    "arch": arch,
                    "lrs": {"model": size},
                    "preprocess": {"crop": crop, "mean": [size]},
                },
            )
        }
        for size, arch, crop in ((64, "vit_tiny", "center"), (200, "vit_small", "none"))
    )
    found = compare(one, other)
    assert len(found.differences) == 1
    assert found.otherwise == [
        "segmentation was measured with other settings: size is 64 and 200, crop is center and none"
    ]
    assert compare(one, one).otherwise == []


def test_the_command_prints_every_difference(tmp_path, capsys):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, top1 in zip(paths, (60.0, 72.0), strict=True):
        path.write_text(json.dumps(result(top1=top1).as_json()))
    assert evaluation.main(["compare", *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["knn", "top1_percent", "60.00", "72.00", "12.00", "2.83", "better"]
    assert lines[2].split()[-1] == "equal"
    assert evaluation.main(["compare", str(paths[0]), str(tmp_path / "no.json")]) == 1
    assert "cannot read" in capsys.readouterr().err
