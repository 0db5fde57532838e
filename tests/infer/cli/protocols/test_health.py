import json

import pytest

from dino_infer.cli import eval as evaluation


def test_the_command_prints_figures_and_writes_the_report(tmp_path, image_folder, weights, capsys):
    args = ["health", "--data", str(image_folder()), "--weights", weights, "--views", "2"]
    out = tmp_path / "report"
    assert evaluation.main([*args, "--device", "cpu", "-o", str(out)]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["model", "untrained", "raw", "pixels"]
    assert [line.split()[0] for line in lines] == ["rankme", "feature_std", "lidar"]
    assert {path.name for path in out.iterdir()} == {"result.json", "spectrum.csv", "spectrum.png"}
    assert json.loads((out / "result.json").read_text())["settings"]["views"] == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--views", "1"], "--views must be 0 or at least 2, got 1"),
        (["--views", "-3"], "--views must be 0 or at least 2, got -3"),
        (["--view-images", "0"], "--view-images must be at least 2, got 0"),
    ],
)
def test_wrong_usage_is_one_line(capsys, args, message):
    assert evaluation.main(["health", "--data", "nowhere", *args]) == 2
    assert capsys.readouterr().err == f"dino-eval: error: {message}\n"
