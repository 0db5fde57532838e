"""The folder of dino-eval PROTOCOL -o: its files, and when they may be written."""

import csv
import json
import os

import pytest

from dino_infer.errors import DataError, OutputInUseError
from dino_infer.evaluate.reports.report import RESULT, hold_report
from tests.infer.evaluate.tables import figures

REPORT = ["classes.csv", "confusion.png", "result.json"]


def test_a_report_says_which_classes_are_taken_for_which(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9, "eel": 9})
    val = feature_set("val", {"ant": 2, "cat": 3, "dog": 4}, seed=1, noise=0.1)
    out = tmp_path / "new" / "report"
    code, stdout, stderr = outcome("--train", train, "--val", val, "--k", 5, 1, "-o", out)
    assert code == 0
    assert list(figures(stdout)) == [
        "k5_top1_percent", "k5_top5_percent", "k1_top1_percent", "k1_top5_percent"
    ]  # fmt: skip
    assert "warning: 1 classes of" in stderr and "count as wrong (ant)" in stderr
    assert "1 training classes have no image in" in stderr
    assert sorted(os.listdir(out)) == REPORT

    summary = json.loads((out / "result.json").read_text())
    [model] = summary["figures"]  # a file holds the features of one network
    assert model["of"] == "model"
    assert set(model["values"].values()) == {100 * 7 / 9}
    assert summary["headline"] == "k5_top1_percent"
    assert summary["settings"]["classes_k"] == 1  # as good as 5, and smaller
    assert summary["data"] == {
        "train": {"source": str(train), "images": 27, "failed": 0, "classes": 3},
        "val": {"source": str(val), "images": 9, "failed": 0, "classes": 3},
    }
    assert summary["settings"]["weights_sha256"] == "ab"
    assert summary["settings"]["temperature"] == 0.07

    rows = list(csv.reader((out / "classes.csv").read_text().splitlines()))
    assert rows[0] == ["class", "images", "top1_percent", "most_confused_with", "confused_percent"]
    assert [row[0] for row in rows[1:]] == ["ant", "cat", "dog", "eel"]
    assert rows[1][:3] == ["ant", "2", "0.00"] and rows[1][3] in ("cat", "dog", "eel")
    assert rows[2] == ["cat", "3", "100.00", "", ""]
    assert rows[4] == ["eel", "0", "", "", ""]


def test_leave_one_out_can_be_reported(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9})
    code, stdout, _ = outcome("--train", train, "--leave-one-out", "--k", 3, "-o", tmp_path / "out")
    assert code == 0 and figures(stdout)["k3_top1_percent"]["model"] > 90
    assert (
        json.loads((tmp_path / "out" / "result.json").read_text())["data"]["val"] == "leave-one-out"
    )


def test_a_report_is_replaced_only_when_told(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9})
    args = ("--train", train, "--leave-one-out", "--k", 3, "-o", tmp_path / "out")
    outcome(*args)
    (tmp_path / "out" / "classes.csv").write_text("mine")
    code, stdout, stderr = outcome(*args)
    assert (code, stdout) == (1, "")
    assert "result.json' exists; pass --overwrite, or another --out" in stderr
    assert (tmp_path / "out" / "classes.csv").read_text() == "mine"
    assert outcome(*args, "--overwrite")[0] == 0
    assert (tmp_path / "out" / "classes.csv").read_text().startswith("class,")


def test_a_report_that_cannot_be_written_leaves_the_older_one(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9})
    out = tmp_path / "out"
    (out / "confusion.png").mkdir(parents=True)
    (out / "result.json").write_text("older")
    code, _, stderr = outcome(
        "--train", train, "--leave-one-out", "--k", 3, "-o", out, "--overwrite"
    )
    assert code == 1 and "Is a directory" in stderr
    assert (out / "result.json").read_text() == "older"
    assert sorted(os.listdir(out)) == ["confusion.png", "result.json"]


def test_a_report_cannot_go_into_a_file(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 3, "dog": 3})
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, stdout, stderr = outcome("--train", train, "--leave-one-out", "-o", out)
        assert (code, stdout) == (1, "")
        assert "the report goes to a folder, but" in stderr


def test_the_second_process_says_that_the_report_is_in_use(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9})
    with hold_report(tmp_path / "out", overwrite=False):
        code, stdout, stderr = outcome("--train", train, "--leave-one-out", "-o", tmp_path / "out")
    assert (code, stdout) == (1, "")
    assert "out' is in use" in stderr or "already writes to" in stderr
    assert not (tmp_path / "out").exists()  # nothing came of the first


def test_a_report_is_held_again_when_its_process_has_ended(tmp_path):
    out = tmp_path / "new" / "out"
    for _ in range(2):
        with hold_report(out, overwrite=False), pytest.raises(OutputInUseError):
            hold_report(out, overwrite=True).__enter__()
    out.mkdir()
    (out / RESULT).touch()
    with pytest.raises(DataError, match="exists; pass `overwrite=True`"):
        hold_report(out, overwrite=False).__enter__()
    assert sorted(os.listdir(out)) == [RESULT]
