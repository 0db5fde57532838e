"""dino-eval all: which protocols run, on which data, and what one failure means."""

import json

import numpy as np
import pytest
from PIL import Image

from dino_infer.cli import eval as evaluation
from dino_infer.errors import DataError
from dino_infer.evaluate.suite.plans import read_plan
from dino_infer.evaluate.suite.protocols import PROTOCOLS


@pytest.fixture
def labelled(tmp_path, image_folder):
    """A folder with train/ and val/."""
    for split, count in (("train", 12), ("val", 6)):
        image_folder(f"data/{split}", count=count)
    return tmp_path / "data"


def test_a_folder_runs_what_its_layout_holds_and_names_the_rest(labelled):
    plan = read_plan(labelled)
    assert plan.data["knn"] == {"train": labelled / "train", "val": labelled / "val"}
    assert plan.data.keys() | plan.skipped.keys() == PROTOCOLS.keys()
    assert all(why.startswith("it needs ") for why in plan.skipped.values())
    assert read_plan(labelled, only=["knn"]).data.keys() == {"knn"}


def test_a_file_names_data_anywhere_and_settings(labelled, tmp_path):
    file = tmp_path / "suite.toml"
    file.write_text('[knn]\ntrain = "data/train"\nval = "data/val"\n')
    plan = read_plan(file)
    assert plan.data == {"knn": {"train": labelled / "train", "val": labelled / "val"}}
    assert plan.skipped["video"] == "no table in suite.toml"
    file.write_text(
        '[copy-detection]\ndata = "data/val"\ndistractors = "data/train"\nsize = 64\n'
        '[retrieval]\nval = "data/val"\n[objects]\ndata = "data"\nsize = 128\n'
    )
    plan = read_plan(file)
    assert plan.data["copy-detection"] == {
        "data": labelled / "val", "distractors": labelled / "train", "size": 64
    }  # fmt: skip
    assert plan.data["retrieval"] == {"val": labelled / "val"}
    assert plan.data["objects"]["size"] == 128


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[knn\n", "is no TOML file"),
        ("[nkk]\n", "expected a table of one of knn"),
        ('knn = "data"\n', "expected a table of one of knn"),
        ('[knn]\ntrain = "data/train"\n', "[knn]: 'val' is missing"),
        ('[knn]\ntrian = "data/train"\n', "unknown key 'trian'; there are train, val"),
        ('[knn]\ntrain = 3\nval = "data/val"\n', "train must be a path, got 3"),
        (
            '[knn]\ntrain = "data/none"\nval = "data/val"\n',
            "train names 'data/none', which does not",
        ),
        ("", "holds data of no protocol"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(labelled, tmp_path, content, message):
    file = tmp_path / "suite.toml"
    file.write_text(content)
    with pytest.raises(DataError) as caught:
        read_plan(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_source_without_data_says_what_each_protocol_needs(tmp_path):
    with pytest.raises(DataError, match="knn: it needs train/ and val/"):
        read_plan(tmp_path)
    with pytest.raises(DataError, match="is neither a folder nor a .toml file"):
        read_plan(tmp_path / "absent")
    with pytest.raises(DataError, match="unknown protocol 'nkk'; there are knn"):
        read_plan(tmp_path, only=["nkk"])


def test_every_layout_names_arguments_of_its_protocol():
    for protocol in PROTOCOLS.values():
        assert set(protocol.required) <= protocol.layout.keys() <= protocol.arguments.keys()


def test_one_command_writes_a_scorecard_and_a_report_for_each(labelled, tmp_path, weights, capsys):
    out = tmp_path / "card"
    args = [
        "all",
        str(labelled),
        "--only",
        "knn",
        "--weights",
        weights,
        "--device",
        "cpu",
        "-o",
        str(out),
    ]
    assert evaluation.main(args) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].startswith("knn") and "not asked for" in printed
    assert {path.name for path in out.iterdir()} == {
        "scorecard.html", "scorecard.json", "scorecard.md", "knn"
    }  # fmt: skip
    stored = json.loads((out / "scorecard.json").read_text())
    assert stored["network"]["weights"] == weights
    assert [one["of"] for one in stored["results"][0]["figures"]] == [
        "model", "untrained", "raw pixels"
    ]  # fmt: skip
    assert json.loads((out / "knn" / "result.json").read_text())["protocol"] == "knn"
    assert evaluation.main(args) == 1
    assert "exists; pass --overwrite" in capsys.readouterr().err


def test_a_protocol_whose_data_cannot_be_used_does_not_stop_the_others(
    labelled, tmp_path, weights, capsys
):
    for path in (labelled / "val").rglob("*.png"):
        target = tmp_path / "masked" / "images" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        mask = np.zeros((40, 48), dtype=np.uint8)
        mask[10:30, 10:30] = 255
        (tmp_path / "masked" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "masked" / "masks" / path.name)
    file = tmp_path / "suite.toml"
    file.write_text(
        '[knn]\ntrain = "data/train"\nval = "masked/images"\n[segmentation]\ndata = "masked"\n'
    )
    args = ["all", str(file), "--weights", weights, "--device", "cpu", "--no-floors"]
    assert evaluation.main(args) == 3
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].startswith("segmentation")
    assert "knn: failed: " in captured.out and "no labels" in captured.out
    file.write_text(
        '[segmentation]\ndata = "masked"\nsize = 3\n[dense-knn]\ndata = "masked"\nsize = 0\n'
    )
    assert evaluation.main(args) == 4
    captured = capsys.readouterr()
    assert "segmentation: failed: `size` must be at least one patch of 8 px" in captured.out
    assert "dense-knn: failed: `size` must be above 0" in captured.out
