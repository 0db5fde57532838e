"""Label files: the classes of images that have no class folders."""

import pytest

from dino_infer.errors import DataError
from dino_infer.evaluate.data.label_files import labels_from_file
from tests.infer.evaluate.tables import labels_csv


def test_label_files_name_the_classes_of_features_without_folders(outcome, tmp_path, feature_set):
    counts = {"cat": 5, "dog": 5}
    foldered = feature_set("foldered", counts), feature_set("foldered-val", counts, seed=1)
    flat = (
        feature_set("flat", counts, flat=True),
        feature_set("flat-val", counts, seed=1, flat=True),
    )
    names = [f"{label}-{i}.png" for label in counts for i in range(5)]
    labels = labels_csv(tmp_path / "labels.csv", reversed(names))
    expected = outcome("--train", foldered[0], "--val", foldered[1], "--k", 3)
    got = outcome(
        "--train", flat[0], "--val", flat[1], "--k", 3, "--train-labels", labels,
        "--val-labels", labels,
    )  # fmt: skip
    assert got == expected and got[0] == 0
    code, _, stderr = outcome("--train", flat[0], "--val", flat[1], "--train-labels", labels)
    assert code == 1 and "flat-val.npy' has no labels" in stderr and "label file" in stderr


def test_a_label_file_may_name_images_that_could_not_be_read(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 5, "dog": 5}, flat=True, broken=2)
    names = [f"{label}-{i}.png" for label in ("cat", "dog") for i in range(5)]
    args = ("--train", train, "--leave-one-out", "--k", 2, "--train-labels")
    code, _, stderr = outcome(*args, labels_csv(tmp_path / "all.csv", names))
    assert (code, stderr) == (3, "warning: 2 images could not be read and were left out\n")
    assert outcome(*args, labels_csv(tmp_path / "some.csv", names[2:]))[0] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\ncat-0.png,cat\nx.png,dog\n",
         "3 of 4 images are not in it (cat-1.png, dog-0.png, dog-1.png), and 1 of its paths are "
         "no image (x.png); paths must read as in the row table, like cat-0.png"),
        ("cat-0.png,cat\n", "expected the header path,label, got 'cat-0.png,cat'"),
        ("", "expected the header path,label, got ''"),
        ("path,label\ncat-0.png\n", "line 2 must hold a path and a label, got 'cat-0.png'"),
        ("path,label\n\ncat-0.png,\n", "line 3 must hold a path and a label, got 'cat-0.png,'"),
        ("path,label\na,b\na,b\n", "line 3 names 'a' a second time"),
        ("path,label\na,\xe9\n", "cannot be used: 'utf-8' codec"),
        (None, "No such file"),
    ],
)  # fmt: skip
def test_a_label_file_that_does_not_fit_is_refused(
    outcome, tmp_path, feature_set, content, message
):
    train = feature_set("train", {"cat": 2, "dog": 2}, flat=True)
    labels = tmp_path / "labels.csv"
    if content is not None:
        labels.write_bytes(content.encode("latin-1"))
    code, stdout, stderr = outcome("--train", train, "--leave-one-out", "--train-labels", labels)
    assert (code, stdout) == (1, "")
    assert stderr.startswith("dino-eval: error: ") and message in stderr
    assert stderr.count("\n") == 1


def test_a_label_file_cannot_name_images_that_share_a_name(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("path,label\na.png,cat\nb.png,dog\n")
    assert list(labels_from_file(path, ["b.png", "a.png"])) == ["dog", "cat"]
    with pytest.raises(DataError, match="2 images are named 'a.png', so label file .* cannot tell"):
        labels_from_file(path, ["a.png", "b.png", "a.png"])
