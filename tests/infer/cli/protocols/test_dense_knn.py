import csv
import json

import pytest

from dino_infer.cli.eval import main
from tests.infer.evaluate.masked import striped


@pytest.fixture
def folder(tmp_path):
    return striped(tmp_path / "data", count=4)


def run(folder, weights, *flags):
    arguments = ["dense-knn", "--data", folder, "--weights", weights, "--device", "cpu"]
    return main([str(one) for one in [*arguments, "--size", 32, *flags]])


def test_figures_are_printed_beside_their_floors_and_written(folder, weights, tmp_path, capsys):
    out = tmp_path / "report"
    assert run(folder, weights, "--subsets", 1, 2, "-o", out) == 0
    printed = capsys.readouterr().out
    for name in ("model", "untrained", "raw pixels", "most frequent class"):
        assert name in printed
    for name in ("miou_percent", "miou_1_2_percent", "logistic_miou_percent"):
        assert name in printed
    result = json.loads((out / "result.json").read_text())
    assert (result["protocol"], result["headline"]) == ("dense-knn", "miou_percent")
    assert {path.name for path in out.iterdir()} == {
        "result.json",
        "images.csv",
        "classes.csv",
        "sheet.png",
    }
    rows = list(csv.DictReader((out / "classes.csv").read_text().splitlines()))
    assert [row["class"] for row in rows] == ["0", "1", "2"]
    assert float(rows[0]["raw pixels: miou_percent"]) > 50


def test_the_images_to_segment_may_be_a_folder_of_their_own(folder, weights, tmp_path, capsys):
    val = striped(tmp_path / "val", count=2)
    assert run(folder, weights, "--val", val, "--no-floors") == 0
    assert "untrained" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", 7], "--size must be at least one patch of 8 px, got 7"),
        (["--k", 0], "--k must be above 0, got 0"),
        (["--temperature", 0], "--temperature must be above 0, got 0"),
        (["--memory-size", 0], "--memory-size must be above 0, got 0"),
        (["--subsets", 0], "--subsets must be above 0, got (0,)"),
        (["--val", "x", "--masks", "y"], "--masks is for one folder of images"),
    ],
)
def test_flags_that_cannot_be_are_refused(folder, weights, capsys, flags, message):
    assert run(folder, weights, *flags) == 2
    assert message in capsys.readouterr().err
