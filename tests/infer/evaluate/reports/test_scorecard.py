"""Scorecards: what each of the three files holds, and what may be read as one."""

import json

import pytest

from dino_infer.errors import DataError
from dino_infer.evaluate.reports.report import write_report
from dino_infer.evaluate.reports.scorecard import (
    FILES,
    Scorecard,
    read_figures,
    write_scorecard,
)
from tests.infer.evaluate.reports.results import result


@pytest.fixture
def scorecard():
    return Scorecard(
        network={"weights": "runs/a|b", "arch": "vit_micro"},
        results=[result(), result("linear", top1=71.5, excluded=["x.png: <empty>"], failed=1)],
        skipped={"video": "it needs video", "knn": "not asked for", "health": "not asked for"},
        broken={"objects": "no masks"},
    )


def test_the_files_are_written_together_and_read_back(tmp_path, scorecard):
    write_scorecard(tmp_path, scorecard)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    found = read_figures(tmp_path / "scorecard.json")
    assert found["linear"]["values"] == {"top1_percent": 71.5, "rank": 7.5}
    assert found["knn"]["spreads"] == {"top1_percent": 2.0}
    stored = json.loads((tmp_path / "scorecard.json").read_text())
    assert stored["skipped"]["video"] == "it needs video"
    assert stored["broken"] == {"objects": "no masks"}


def test_the_report_of_one_protocol_is_read_as_a_scorecard_of_one(tmp_path):
    write_report(tmp_path, result())
    assert list(read_figures(tmp_path / "result.json")) == ["knn"]


def test_the_table_has_a_line_for_each_protocol_and_what_was_not_run(scorecard):
    lines = scorecard.as_markdown().splitlines()
    assert lines[2:4] == [
        "| knn | top1_percent | 60.00 ± 2.00 | raw pixels 30.00 |",
        "| linear | top1_percent | 71.50 ± 2.00 | raw pixels 30.00 |",
    ]
    assert lines[5:] == [
        "- video: not run: it needs video",
        "- knn, health: not run: not asked for",
        "- objects: failed: no masks",
    ]
    text = scorecard.as_text().splitlines()
    assert text[1].split() == [
        "knn",
        "top1_percent",
        "60.00",
        "±",
        "2.00",
        "raw",
        "pixels",
        "30.00",
    ]
    assert text[-1] == "objects: failed: no masks"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "it holds no JSON object"),
        ("{}", "is no scorecard.json or result.json of dino-eval: 'protocol'"),
        ('{"results": 3}', "is no scorecard.json"),
        ('{"results": [{"protocol": "knn", "figures": []}]}', "is no scorecard.json"),
        (
            '{"protocol": "knn", "data": {}, "figures": [{"values": {"a": "b"}, "spreads": {}}]}',
            "expected a number, got 'b'",
        ),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_figures(path)
    assert message in str(caught.value) and str(path) in str(caught.value)
    with pytest.raises(DataError, match="cannot read"):
        read_figures(tmp_path / "absent.json")
