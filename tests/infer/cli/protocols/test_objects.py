"""dino-eval objects."""

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


def run(weights, *flags):
    arguments = ["objects", *flags, "--weights", weights, "--device", "cpu"]
    return main([str(one) for one in arguments])


def test_figures_are_printed_beside_their_floors_and_written(folder, weights, tmp_path, capsys):
    out = tmp_path / "report"
    assert run(weights, "--data", folder, "--size", 32, "-o", out) == 0
    printed, told = capsys.readouterr()
    for name in ("model", "untrained", "centred ellipse", "tokencut_iou_percent", "lost_max_f"):
        assert name in printed
    result = json.loads((out / "result.json").read_text())
    assert (result["protocol"], result["headline"]) == ("objects", "tokencut_iou_percent")
    assert {path.name for path in out.iterdir()} == {"result.json", "images.csv", "sheet.png"}
    named = [line for line in told.splitlines() if line.startswith("written: ")]
    assert sorted(named) == sorted(f"written: {path}" for path in out.iterdir())


def test_boxes_may_come_from_annotations(folder, weights, capsys):
    box = "<xmin>5</xmin><ymin>9</ymin><xmax>16</xmax><ymax>20</ymax>"
    (folder / "masks/0.xml").write_text(f"<a><object><bndbox>{box}</bndbox></object></a>")
    flags = ("--data", folder / "images", "--size", 32, "--no-floors", "--boxes", folder / "masks")
    assert run(weights, *flags) == 0
    printed = capsys.readouterr().out
    assert "lost_corloc_percent" in printed and "iou" not in printed
    assert run(weights, *flags, "--levels", "labels") == 2
    assert "--masks, --split and --levels are for masks" in capsys.readouterr().err


def test_a_split_of_images_without_lists_is_refused(folder, weights, capsys):
    assert run(weights, "--data", folder, "--split", "train") == 1
    assert f"there is no split 'train' in {str(folder)!r}" in capsys.readouterr().err


def test_a_size_below_one_patch_is_wrong_usage(folder, weights, capsys):
    assert run(weights, "--data", folder, "--size", 4) == 2
    assert "--size must be at least one patch of 8 px, got 4" in capsys.readouterr().err
