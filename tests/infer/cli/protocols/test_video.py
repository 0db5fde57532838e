import json

import pytest

from dino_infer.cli import eval as evaluation
from tests.infer.evaluate.clips import plain


def test_the_command_prints_figures_and_writes_the_report(tmp_path, weights, capsys):
    root, out = plain(tmp_path / "clip"), tmp_path / "report"
    args = ["video", "--data", str(root), "--weights", weights, "--size", "48", "-o", str(out)]
    assert evaluation.main([*args, "--device", "cpu"]) == 0
    printed, told = capsys.readouterr()
    columns = "model untrained first mask copied previous mask copied"
    assert printed.splitlines()[0].split() == columns.split()
    assert printed.splitlines()[1].startswith("jf_percent")
    assert {path.name for path in out.iterdir()} == {
        "masks", "masks.png", "objects.csv", "result.json",
    }  # fmt: skip
    named = [line for line in told.splitlines() if line.startswith("written: ")]
    assert sorted(named) == sorted(f"written: {path}" for path in out.iterdir())
    assert json.loads((out / "result.json").read_text())["headline"] == "jf_percent"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--size", 4], "--size must be at least one patch of 8 px, got 4"),
        (["--top-k", 0], "--top-k must be at least 1, got 0"),
        (["--neighborhood", -1], "--neighborhood must not be negative, got -1"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, weights, capsys, args, message):
    shared = ["video", "--data", str(tmp_path), "--weights", weights, "--device", "cpu"]
    assert evaluation.main([*shared, *map(str, args)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"dino-eval: error: {message}"


def test_bad_data_is_one_line(tmp_path, weights, capsys):
    args = ["video", "--data", str(tmp_path), "--weights", weights, "--device", "cpu"]
    assert evaluation.main(args) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("dino-eval: error: expected ") and last.endswith("it has neither")
