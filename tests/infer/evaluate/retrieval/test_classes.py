"""dino-eval retrieval of classes, against scikit-learn and loops."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score

from dino_infer.cli import eval as evaluation
from dino_infer.evaluate.retrieval.classes import class_columns, class_ranks
from tests.infer.evaluate.tables import figures


@pytest.fixture
def outcome(capsys, weights, tmp_path):
    """A function that runs the verb, and gives exit code, stdout and stderr."""

    def run(*args):
        fixed = [
            "--weights",
            weights,
            "--device",
            "cpu",
            "--seed",
            5,
            "--cache",
            tmp_path / "cache",
        ]
        code = evaluation.main([str(word) for word in ["retrieval", *fixed, *args]])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_each_image_is_looked_up_among_the_others():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(40, 5)).astype(np.float32), np.array(list("abcd") * 10)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    ranks = class_ranks(rows, rows, query_labels=labels, labels=labels, same=range(40))
    precisions, found = [], []
    for i in range(40):
        others = np.delete(np.arange(40), i)
        scores, is_alike = unit[others] @ unit[i], labels[others] == labels[i]
        precisions.append(average_precision_score(is_alike, scores))
        found.append([is_alike[np.argsort(-scores)[:k]].any() for k in (1, 5, 10)])
    values = class_columns(ranks)
    assert values["map_percent"] == pytest.approx(100 * np.array(precisions))
    for k, share in zip((1, 5, 10), np.mean(found, axis=0), strict=True):
        assert values[f"recall_at_{k}_percent"].mean() == pytest.approx(100 * share)


def test_classes_are_measured_beside_their_floors(outcome, image_folder, tmp_path):
    photos = image_folder(count=12, classes=3)
    code, stdout, stderr = outcome("--data", photos, "-o", tmp_path / "out")
    assert code == 0, stderr
    shown = figures(stdout)
    assert list(shown["map_percent"]) == ["model", "untrained", "raw pixels", "chance"]
    assert shown["recall_at_1_percent"]["chance"] == pytest.approx(100 * 3 / 11, abs=0.01)
    assert shown["map_percent"]["raw pixels"] > shown["map_percent"]["chance"]
    with (tmp_path / "out" / "classes.csv").open() as file:
        classes = [(row["class"], row["queries"]) for row in csv.DictReader(file)]
    assert classes == [(f"class_{i}", "4") for i in range(3)]
    with Image.open(tmp_path / "out" / "nearest.png") as picture:
        assert picture.width > 5 * 200
    assert outcome("--data", photos)[1] == stdout


def test_queries_of_another_folder_never_find_themselves(outcome, photos, tmp_path):
    queries = tmp_path / "queries"
    (queries / "cat").mkdir(parents=True)
    (queries / "cat" / "link.png").symlink_to(photos / "cat" / "0.png")
    shutil.copy(photos / "cat" / "1.png", queries / "cat" / "copy.png")
    code, stdout, _ = outcome("--data", photos, "--queries", queries, "-o", tmp_path / "out")
    assert code == 0
    data = json.loads((tmp_path / "out" / "result.json").read_text())["data"]
    assert (data["images"], data["queries"]) == (16, 2)
    # The link is junk: 7 of 15 are relevant to it, and 8 of 16 to the copy.
    expected = 100 * (7 / 15 + 8 / 16) / 2
    assert figures(stdout)["recall_at_1_percent"]["chance"] == pytest.approx(expected, abs=0.01)


def test_several_scales_are_other_features(outcome, photos):
    plain, scaled = outcome("--data", photos)[1], outcome("--data", photos, "--multiscale")[1]
    assert figures(plain)["map_percent"]["model"] != figures(scaled)["map_percent"]["model"]
    pixels = [figures(text)["map_percent"]["raw pixels"] for text in (plain, scaled)]
    assert pixels[0] == pixels[1]


def test_classes_of_one_image_and_unreadable_images_are_left_out(outcome, photos, tmp_path):
    (photos / "dog").mkdir()
    shutil.copy(photos / "cat" / "0.png", photos / "dog" / "only.png")
    (photos / "coffee" / "3.png").write_bytes(b"no image")
    code, _, stderr = outcome("--data", photos)
    assert code == 3
    assert "left out: 1 queries, as the database has no other image of their 1 classes (dog)" in (
        stderr
    )
    assert "1 images could not be read" in stderr


def test_one_class_and_strips_of_one_pixel_are_measured(outcome, tmp_path):
    root = tmp_path / "strips" / "only"
    root.mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (50, 1), (80 * i, 9, 9)).save(root / f"{i}.png")
    for crop in ("center", "none"):
        code, stdout, stderr = outcome("--data", root.parent, "--crop", crop, "--multiscale")
        assert code == 0, stderr
        assert figures(stdout)["map_percent"]["model"] == 100


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["bird/0.png"], "no query has another image of its class"),
        (["0.png"], "has no labels; put the images into a folder for each class"),
    ],
)
def test_queries_without_a_class_of_the_database_are_refused(
    outcome, photos, tmp_path, names, message
):
    for name in names:
        path = tmp_path / "queries" / name
        path.parent.mkdir(parents=True)
        shutil.copy(photos / "cat" / "0.png", path)
    code, _, stderr = outcome("--data", photos, "--queries", tmp_path / "queries")
    assert code == 1
    assert message in stderr.splitlines()[-1]
