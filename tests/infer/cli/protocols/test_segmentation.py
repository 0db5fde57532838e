import json

import numpy as np
import pytest
from PIL import Image

from dino_infer.cli.eval import main


@pytest.fixture
def folder(tmp_path):
    """Three grey images with a bright square each, whose masks are black and white."""
    for i in range(3):
        mask = np.zeros((32, 40), np.uint8)
        mask[8:20, 4 + 8 * i : 16 + 8 * i] = 255
        for name, pixels in (("images", 60 + mask // 2), ("masks", mask)):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def run(folder, weights, *flags):
    arguments = ["segmentation", "--data", folder, "--weights", weights, "--device", "cpu"]
    return main([str(one) for one in [*arguments, "--size", 32, *flags]])


def test_figures_are_printed_beside_their_floors_and_written(folder, weights, tmp_path, capsys):
    out = tmp_path / "report"
    assert run(folder, weights, "-o", out) == 0
    printed = capsys.readouterr().out
    for name in ("model", "untrained", "centred ellipse", "whole frame", "iou_best_head_percent"):
        assert name in printed
    result = json.loads((out / "result.json").read_text())
    assert result["headline"] == "iou_chosen_head_percent"
    assert {path.name for path in out.iterdir()} == {
        "result.json",
        "images.csv",
        "heads.csv",
        "thresholds.csv",
        "precision_recall.png",
        "sheet.png",
    }


def test_the_network_alone_has_no_floors(folder, weights, capsys):
    assert run(folder, weights, "--no-floors") == 0
    printed = capsys.readouterr().out
    assert "model" in printed
    assert "ellipse" not in printed


def test_images_that_are_left_out_are_named(folder, weights, caplog):
    (folder / "masks/1.png").unlink()
    assert run(folder, weights) == 0
    assert "left out: 1.png: no mask" in caplog.text


def test_masks_may_lie_elsewhere(folder, weights, capsys):
    (folder / "masks").rename(folder.parent / "truth")
    arguments = ["segmentation", "--data", folder / "images", "--masks", folder.parent / "truth"]
    flags = ["--weights", weights, "--device", "cpu", "--size", 32, "--no-floors"]
    assert main([str(one) for one in [*arguments, *flags]]) == 0
    assert "iou_mean_head_percent" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", 7], "--size must be at least one patch of 8 px, got 7"),
        (["--size", 0], "--size must be at least 1, got 0"),
        (["--mass", 1.5], "--mass must lie above 0 and be at most 1, got 1.5"),
    ],
)
def test_numbers_out_of_range_are_refused(folder, weights, capsys, flags, message):
    assert run(folder, weights, *flags) == 2
    assert message in capsys.readouterr().err


def test_black_and_white_masks_beside_others_ask_for_their_meaning(folder, weights, capsys):
    mask = np.zeros((32, 40), np.uint8)
    mask[4:8] = 1
    Image.fromarray(mask).save(folder / "masks/0.png")
    assert run(folder, weights) == 1
    assert "pass --levels foreground" in capsys.readouterr().err
    assert run(folder, weights, "--levels", "labels", "--no-floors") == 0
