"""Linear classification on random crops: the crops of the original, and one schedule for all."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from dino_infer.cli import eval as evaluation
from dino_infer.evaluate.random_crops import random_box, random_view
from dino_infer.heads import LinearHead


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 20))
def test_a_crop_lies_in_the_image_whatever_its_shape(height, width, seed):
    top, left, h, w = random_box(height, width, rng=np.random.default_rng(seed))
    assert top >= 0 and left >= 0 and h >= 1 and w >= 1
    assert top + h <= height and left + w <= width


def test_crops_cover_8_to_100_percent_of_the_area_at_3_to_4():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(300, 400, rng=rng) for _ in range(500)])
    shares = boxes[:, 2] * boxes[:, 3] / (300 * 400)
    ratios = boxes[:, 3] / boxes[:, 2]
    assert 0.079 < shares.min() < 0.12 and 0.9 < shares.max() <= 1
    assert 0.73 < ratios.min() < 0.8 and 1.25 < ratios.max() < 1.36


def test_a_view_follows_its_seed_and_is_flipped_half_the_time():
    image = np.tile(np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None], (30, 1, 3))
    views = [random_view(image, size=16, rng=np.random.default_rng(seed)) for seed in range(100)]
    assert {tuple(view.shape) for view in views} == {(3, 16, 16)}
    assert torch.equal(views[0], random_view(image, size=16, rng=np.random.default_rng(0)))
    flipped = sum(bool(view[0, 8, 0] > view[0, 8, -1]) for view in views)
    assert 30 < flipped < 70


def test_the_published_schedule_leaves_a_head_and_names_what_cannot_be_read(
    capsys, tmp_path, image_folder, weights
):
    folder = image_folder(count=12, classes=3)
    (folder / "class_1" / "bad.png").write_bytes(b"no image")
    args = ["linear", "--train", str(folder), "--val", str(folder), "--weights", weights]
    args += ["--device", "cpu", "--epochs", "3", "--random-crops", "--lr", "1"]
    args += ["--cache", str(tmp_path / "cache"), "--overwrite", "-o", str(tmp_path / "out")]
    heads = []
    for _ in range(2):
        assert evaluation.main(args) == 3
        heads.append(LinearHead.load(tmp_path / "out" / "head.safetensors"))
    np.testing.assert_allclose(heads[0].weight, heads[1].weight, rtol=1e-4, atol=1e-6)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["failed"] == 2 and result["settings"]["mode"] == "random crops"
    assert [one["of"] for one in result["figures"]] == ["model", "untrained", "majority class"]
    assert result["settings"]["feature"] == "last4"
    capsys.readouterr()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lr", "0.1", "0.2"], "--random-crops takes one --lr, and neither --tries nor --crop"),
        (["--tries", "2"], "--random-crops takes one --lr, and neither --tries nor --crop"),
        ([], "--random-crops needs images, not feature files"),
    ],
)
def test_wrong_usage_is_one_line(capsys, feature_set, flags, message):
    train = feature_set("train", {"cat": 5, "dog": 5})
    args = ["linear", "--train", str(train), "--val", str(train), "--random-crops", *flags]
    assert evaluation.main(args) == 2
    assert message in capsys.readouterr().err
