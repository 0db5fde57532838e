"""dino-eval copy-detection: figures beside their floors, what is left out, and edge cases."""

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from dino_infer.cli import eval as evaluation
from tests.infer.evaluate.tables import figures


@pytest.fixture
def outcome(capsys, weights, tmp_path):
    """A function that runs the verb with small squares, and gives exit code, stdout and stderr."""

    def run(*args, size=32):
        fixed = ["--weights", weights, "--device", "cpu", "--seed", 5, "--size", size]
        words = ["copy-detection", *fixed, "--cache", tmp_path / "cache", *args]
        code = evaluation.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def copies(tmp_path):
    """Eight noisy originals, each darkened and mirrored."""
    rng = np.random.default_rng(0)
    root = tmp_path / "set"
    (root / "original").mkdir(parents=True)
    (root / "query").mkdir()
    lines = ["query,original,transform"]
    for i in range(8):
        pixels = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        picture = Image.fromarray(pixels)
        picture.save(root / "original" / f"{i}.png")
        for name, made in (
            ("dark", picture.point(lambda level: int(0.8 * level))),
            ("mirror", ImageOps.mirror(picture)),
        ):
            made.save(root / "query" / f"{i}_{name}.png")
            lines.append(f"{i}_{name}.png,{i}.png,{name}")
    (root / "copies.csv").write_text("\n".join(lines))
    return root


def folder_of(path, count, *, seed):
    rng = np.random.default_rng(seed)
    path.mkdir()
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(path / f"{i}.png")
    return path


def test_figures_stand_beside_their_floors_and_every_transform_has_a_line(
    outcome, copies, tmp_path
):
    code, stdout, stderr = outcome("--data", copies, "-o", tmp_path / "out")
    assert code == 0, stderr
    shown = figures(stdout.split("\n\n")[0])
    for name in ("map", "uap", "accuracy_at_1"):
        assert list(shown[f"{name}_percent"]) == ["model", "untrained", "raw pixels", "chance"]
    assert shown["accuracy_at_1_percent"]["chance"] == 12.5
    assert shown["map_percent"]["model"] > shown["map_percent"]["chance"]
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["settings"]["feature"] == "cls+gem"
    assert result["settings"]["whitening_fitted_on"] == "references"
    assert result["settings"]["whitening_components"]["model"] == 7  # of 8 originals
    with (tmp_path / "out" / "transforms.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["transform"], row["queries"]) for row in rows] == [("dark", "8"), ("mirror", "8")]
    dark, mirror = (float(row["map_percent of raw pixels"]) for row in rows)
    assert dark > mirror
    mean = np.mean([float(row["map_percent"]) for row in rows])
    assert shown["map_percent"]["model"] == pytest.approx(mean, abs=0.01)
    with Image.open(tmp_path / "out" / "hardest.png") as picture:
        assert picture.height > 8 * 200


def test_runs_are_repeatable_and_features_are_kept(outcome, copies, tmp_path):
    _, first, _ = outcome("--data", copies)
    assert outcome("--data", copies)[1] == first
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 6


def test_distractors_join_the_database_and_a_background_normalises_scores(
    outcome, copies, tmp_path
):
    more = folder_of(tmp_path / "more", 30, seed=1)
    (more / "twin.png").write_bytes((copies / "original" / "3.png").read_bytes())
    background = folder_of(tmp_path / "background", 40, seed=2)
    args = ("--distractors", more, "--background", background, "-o", tmp_path / "out")
    code, stdout, stderr = outcome("--data", copies, *args)
    assert code == 0
    assert "left out: 1 images of distractors are originals, byte for byte (twin.png)" in stderr
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["data"]["distractors"] == 30
    assert result["settings"]["whitening_fitted_on"] == "background"
    assert result["figures"][-1]["values"]["accuracy_at_1_percent"] == pytest.approx(100 / 38)
    assert "normalised_uap_percent" in figures(stdout.split("\n\n")[0])
    assert "whitened_normalised_recall_at_p90_percent" in stdout


def test_whitening_may_be_fitted_on_other_images_and_cut_down(outcome, copies, tmp_path):
    other = folder_of(tmp_path / "other", 12, seed=3)
    args = ("--whiten-on", other, "--components", 3, "--no-floors", "-o", tmp_path / "out")
    assert outcome("--data", copies, *args)[0] == 0
    settings = json.loads((tmp_path / "out" / "result.json").read_text())["settings"]
    assert settings["whitening_fitted_on"] == "whiten_on"
    assert settings["whitening_components"] == {"model": 3}


def test_whitening_never_sees_a_query(outcome, copies, tmp_path):
    background = folder_of(tmp_path / "background", 12, seed=4)
    (background / "seen.png").write_bytes((copies / "query" / "3_dark.png").read_bytes())
    code, _, stderr = outcome("--data", copies, "--background", background, "--no-floors")
    assert code == 0
    assert "1 images of background are queries, byte for byte (seen.png)" in stderr


@pytest.mark.parametrize("flag", ["--background", "--distractors", "--whiten-on"])
def test_a_set_without_a_readable_image_is_left_out(outcome, copies, tmp_path, flag):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"no image")
    out = tmp_path / "out"
    code, _, stderr = outcome("--data", copies, flag, bad, "--no-floors", "-o", out)
    assert code == 3
    assert "no image can be read" in stderr and "Traceback" not in stderr
    settings = json.loads((out / "result.json").read_text())["settings"]
    assert settings["whitening_fitted_on"] == "references"
    assert settings["whitening_components"]["model"] == 7


def test_images_smaller_than_a_patch_are_one_line(outcome, copies):
    code, _, stderr = outcome("--data", copies, size=4)
    assert code == 2 and "Traceback" not in stderr


def test_images_that_cannot_be_read_are_left_out_for_all(outcome, copies, tmp_path):
    (copies / "original" / "2.png").write_bytes(b"no image")
    (copies / "query" / "5_dark.png").write_bytes(b"")
    code, _, stderr = outcome("--data", copies, "-o", tmp_path / "out")
    assert code == 3
    assert "2 images could not be read" in stderr
    assert "2 queries, as their originals cannot be read (query/2_dark.png" in stderr
    data = json.loads((tmp_path / "out" / "result.json").read_text())["data"]
    assert (data["queries"], data["references"]) == (13, 7)


def test_one_original_with_one_copy_is_enough(outcome, copies):
    for path in [*(copies / "original").iterdir(), *(copies / "query").iterdir()]:
        if not path.name.startswith("0"):
            path.unlink()
    (copies / "copies.csv").write_text("query,original\n0_dark.png,0.png\n")
    code, stdout, stderr = outcome("--data", copies)
    assert code == 0
    assert figures(stdout.split("\n\n")[0])["map_percent"]["model"] == 100
    assert "whitened figures of model: its features of references are equal" in stderr


def test_no_readable_pair_is_one_line(outcome, copies):
    for path in (copies / "original").iterdir():
        path.write_bytes(b"no image")
    code, _, stderr = outcome("--data", copies)
    assert code == 1
    assert stderr.splitlines()[-1].startswith("dino-eval: error: ")


@pytest.mark.parametrize("flag", ["--components", "--size"])
def test_numbers_below_1_are_wrong_usage(outcome, copies, flag):
    code, _, stderr = outcome("--data", copies, flag, 0)
    assert code == 2 and f"{flag} must be at least 1, got 0" in stderr
