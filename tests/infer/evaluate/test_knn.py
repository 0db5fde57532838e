"""dino-eval knn: tables, few-shot draws, label files, reports, and input that cannot be used."""

import csv
import hashlib
import json
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from dino_infer.cli import embed, eval as evaluation
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError
from dino_infer.evaluate.knn import drawn
from dino_infer.evaluate.label_files import labels_from_file
from dino_infer.evaluate.labelled import labelled_features
from dino_infer.features.files import sha256_of
from dino_infer.images.preprocess import Preprocess
from dino_infer.knn import classifier as knn
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo

DESCRIPTION = {"arch": "none", "feature": "cls", "weights_sha256": "ab", "preprocess": {"size": 8}}
REPORT = ["accuracies.json", "classes.csv", "confusion.png"]


@pytest.fixture
def outcome(capsys):
    """A function that runs dino-eval knn and gives exit code, stdout and stderr."""

    def run(*args):
        code = evaluation.main(["knn", *(str(arg) for arg in args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def feature_set(tmp_path):
    """A function that writes features, clustered by class, in the documented format."""

    def write(name, counts, *, seed=0, dim=6, noise=0.5, flat=False, broken=0, **changes):
        rng = np.random.default_rng(seed)
        rows, paths, labels = [], [], []
        for label, count in counts.items():
            center = np.random.default_rng(list(label.encode())).normal(size=dim)
            rows += [center + noise * rng.normal(size=dim) for _ in range(count)]
            paths += [f"{label}-{i}.png" if flat else f"{label}/{i}.png" for i in range(count)]
            labels += [label] * count
        path = tmp_path / f"{name}.npy"
        np.save(path, np.array(rows[broken:], dtype=np.float32))
        columns = {"row": range(len(rows) - broken), "path": paths[broken:]}
        if not flat:
            columns["label"] = labels[broken:]
        table = pyarrow.table({name: pyarrow.array(column) for name, column in columns.items()})
        pyarrow.parquet.write_table(table, path.with_suffix(".parquet"))
        failures = [{"path": path, "kind": "empty", "reason": "0 bytes"} for path in paths[:broken]]
        lines = "".join(json.dumps(failure) + "\n" for failure in failures)
        path.with_suffix(".failed.jsonl").write_text(lines)
        files = [path, path.with_suffix(".parquet")]
        manifest = {
            "format_version": 1, "rows": len(rows) - broken, "dim": dim, "dtype": "float32",
            "shape": [len(rows) - broken, dim], "images": len(rows),
            "failed": broken, **DESCRIPTION, **changes,
            "files_sha256": {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files},
        }  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps(manifest))
        return path

    return write


def table(stdout):
    """The numbers of a printed table, without its heading."""
    return [[float(cell) for cell in line.split()] for line in stdout.splitlines()[1:]]


def test_a_report_says_which_classes_are_taken_for_which(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9, "eel": 9})
    val = feature_set("val", {"ant": 2, "cat": 3, "dog": 4}, seed=1, noise=0.1)
    out = tmp_path / "new" / "report"
    code, stdout, stderr = outcome("--train", train, "--val", val, "--k", 5, 1, "-o", out)
    assert code == 0
    assert [row[0] for row in table(stdout)] == [5, 1]
    assert "warning: 1 classes of" in stderr and "count as wrong (ant)" in stderr
    assert "1 training classes have no image in" in stderr
    assert sorted(os.listdir(out)) == REPORT

    summary = json.loads((out / "accuracies.json").read_text())
    assert [list(row.values()) for row in summary["accuracies"]] == [
        [5, 100 * 7 / 9, 100 * 7 / 9],
        [1, 100 * 7 / 9, 100 * 7 / 9],
    ]
    assert summary["classes_k"] == 1  # as good as 5, and smaller
    assert summary["train"] == {"source": str(train), "images": 27, "failed": 0, "classes": 3}
    assert summary["val"] == {"source": str(val), "images": 9, "failed": 0, "classes": 3}
    assert summary["weights_sha256"] == "ab" and summary["temperature"] == 0.07

    rows = list(csv.reader((out / "classes.csv").read_text().splitlines()))
    assert rows[0] == ["class", "images", "top1_percent", "most_confused_with", "confused_percent"]
    assert [row[0] for row in rows[1:]] == ["ant", "cat", "dog", "eel"]
    assert rows[1][:3] == ["ant", "2", "0.00"] and rows[1][3] in ("cat", "dog", "eel")
    assert rows[2] == ["cat", "3", "100.00", "", ""]
    assert rows[4] == ["eel", "0", "", "", ""]


def test_leave_one_out_can_be_reported(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9})
    code, stdout, _ = outcome("--train", train, "--leave-one-out", "--k", 3, "-o", tmp_path / "out")
    assert code == 0 and table(stdout)[0][1] > 90
    assert json.loads((tmp_path / "out" / "accuracies.json").read_text())["val"] == "leave-one-out"


def test_a_report_is_replaced_only_when_told(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9})
    args = ("--train", train, "--leave-one-out", "--k", 3, "-o", tmp_path / "out")
    outcome(*args)
    (tmp_path / "out" / "classes.csv").write_text("mine")
    code, stdout, stderr = outcome(*args)
    assert (code, stdout) == (1, "")
    assert "accuracies.json' exists; pass --overwrite to replace it" in stderr
    assert (tmp_path / "out" / "classes.csv").read_text() == "mine"
    assert outcome(*args, "--overwrite")[0] == 0
    assert (tmp_path / "out" / "classes.csv").read_text().startswith("class,")


def test_a_report_that_cannot_be_written_leaves_the_older_one(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9})
    out = tmp_path / "out"
    (out / "confusion.png").mkdir(parents=True)
    (out / "accuracies.json").write_text("older")
    code, _, stderr = outcome(
        "--train", train, "--leave-one-out", "--k", 3, "-o", out, "--overwrite"
    )
    assert code == 1 and "Is a directory" in stderr
    assert (out / "accuracies.json").read_text() == "older"
    assert sorted(os.listdir(out)) == ["accuracies.json", "confusion.png"]


def test_a_report_cannot_go_into_a_file(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 3, "dog": 3})
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, stdout, stderr = outcome("--train", train, "--leave-one-out", "-o", out)
        assert (code, stdout) == (1, "")
        assert "the report goes to a folder, but" in stderr


def test_few_shot_gives_mean_and_spread_of_seeded_draws(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 20, "eel": 4}, noise=1.5)
    val = feature_set("val", {"cat": 20, "dog": 20, "eel": 20}, seed=1, noise=1.5)
    args = ("--train", train, "--val", val, "--k", 1, 3, "--n-per-class", 2, 5, "--tries", 4)
    code, stdout, stderr = outcome(*args, "--seed", 7, "-o", tmp_path / "out")
    assert code == 0
    assert "warning: 1 classes have fewer than 5 training images and use all (eel)" in stderr
    full, few = stdout.split("\n\n")
    assert [row[0] for row in table(full)] == [1, 3]
    rows = table(few.split("\n", 1)[1])
    assert [row[:2] for row in rows] == [[2, 1], [2, 3], [5, 1], [5, 3]]
    assert all(row[3] > 0 for row in rows)

    shots = json.loads((tmp_path / "out" / "accuracies.json").read_text())["few_shot"]
    top1 = []
    features, labels = np.load(train), np.repeat(["cat", "dog", "eel"], [9, 20, 4])
    for number in range(4):
        chosen = drawn(labels, 2, rng=np.random.default_rng((7, 2, number)))
        classifier = knn.KNNClassifier(k=3).fit(features[chosen], labels[chosen])
        top1.append(100 * classifier.score(np.load(val), np.repeat(["cat", "dog", "eel"], 20)))
    assert shots[1]["top1_percent_mean"] == pytest.approx(np.mean(top1))
    assert shots[1]["top1_percent_std"] == pytest.approx(np.std(top1, ddof=1))

    assert outcome(*args, "--seed", 7)[1] == stdout
    assert outcome(*args, "--seed", 8)[1] != stdout


def test_a_k_beyond_the_images_drawn_is_clamped_with_one_warning(outcome, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9})
    code, stdout, stderr = outcome(
        "--train", train, "--val", train, "--k", 5, 9, "--n-per-class", 2, "--tries", 2
    )
    assert code == 0
    assert stderr == "warning: k = 9 is more than the 4 training rows; using all\n"
    rows = table(stdout.split("\n\n")[1].split("\n", 1)[1])
    assert rows[0][2:] == rows[1][2:]  # both ks take all four


def test_a_draw_takes_so_many_of_each_class_and_every_one_in_time():
    labels = np.array(["b", "a", "b", "c", "a", "b", "a"])
    seen = set()
    for seed in range(50):
        rows = drawn(labels, 2, rng=np.random.default_rng(seed))
        assert sorted(labels[rows]) == ["a", "a", "b", "b", "c"]
        assert (np.diff(rows) > 0).all()
        seen |= set(rows.tolist())
    assert seen == set(range(7))


def labels_csv(path, names):
    path.write_text("path,label\n" + "".join(f"{n},{n.split('-')[0]}\n" for n in names))
    return path


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


def test_a_flat_folder_of_images_takes_a_label_file(tmp_path, image_folder):
    folder = image_folder(count=9, classes=3)
    names = []
    for path in sorted(folder.glob("*/*.png")):
        names.append(f"{path.parent.name}-{path.name}")
        path.rename(folder / names[-1])
    (folder / "broken.png").write_bytes(b"no image")
    labels = labels_csv(tmp_path / "labels.csv", [*names, "broken.png"])
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    embedder = Embedder(backbone, Preprocess(size=32), device="cpu", workers=1)
    found = labelled_features(str(folder), embedder=lambda: embedder, label_file=labels)
    assert list(found.labels) == [f"class_{i}" for i in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert (found.matrix.shape[0], found.images, found.failed) == (9, 10, 1)
    with pytest.raises(DataError, match="has no labels"):
        labelled_features(str(folder), embedder=lambda: embedder)


def test_a_link_is_not_its_own_nearest_neighbour(tmp_path, image_folder):
    folder = image_folder(count=3, classes=1)
    real = sorted(folder.glob("*/*.png"))
    (folder / "alias.png").symlink_to(real[0])
    (folder / "link.png").hardlink_to(real[1])
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.png")]
    labels = labels_csv(tmp_path / "labels.csv", names)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    embedder = Embedder(backbone, Preprocess(size=32), device="cpu", workers=1)
    found = labelled_features(str(folder), embedder=lambda: embedder, label_file=labels)
    assert (found.images, len(found.matrix)) == (3, 3)
    assert set(found.labels) == {str(path.relative_to(folder)) for path in real}


def test_a_row_that_is_not_finite_is_named_with_its_path(outcome, feature_set):
    train = feature_set("train", {"cat": 5, "dog": 5})
    matrix = np.load(train)
    matrix[6, 2] = np.nan
    np.save(train, matrix)
    code, stdout, stderr = outcome("--train", train, "--leave-one-out")
    assert (code, stdout) == (1, "")
    assert "train.npy' has changed since it was written" in stderr
    manifest = json.loads(train.with_suffix(".json").read_bytes())
    manifest["files_sha256"]["train.npy"] = sha256_of(train)
    train.with_suffix(".json").write_text(json.dumps(manifest))
    code, stdout, stderr = outcome("--train", train, "--leave-one-out")
    assert (code, stdout) == (1, "")
    assert "row 6, the features of 'dog/1.png', holds NaN or infinity" in stderr


def test_rows_that_stand_for_unreadable_images_are_left_out(
    capsys, outcome, tmp_path, image_folder
):
    folder = image_folder(count=9, classes=3)
    (folder / "class_1" / "0.png").write_bytes(b"no image")
    weights = tmp_path / "micro.safetensors"
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    save_checkpoint(weights, backbone, info)
    files = [tmp_path / f"{policy}.npy" for policy in ("skip", "nan")]
    for out in files:
        args = (folder, "-o", out, "--weights", weights, "--device", "cpu", "--workers", 1)
        assert embed.main([*map(str, args), "--on-error", out.stem]) == 3
    assert np.isnan(np.load(files[1])).any()
    capsys.readouterr()
    results = [outcome("--train", out, "--leave-one-out", "--k", 1) for out in files]
    assert results[0] == results[1]
    assert results[0][0] == 3 and "1 images could not be read" in results[0][2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 4}, "they differ in width, 6 and 4"),
        ({"weights_sha256": "cd"}, "they differ in weights_sha256"),
        ({"preprocess": {"size": 9}, "feature": "mean"}, "they differ in feature, preprocess"),
    ],
)
def test_features_made_differently_are_refused(outcome, feature_set, changes, message):
    train = feature_set("train", {"cat": 5, "dog": 5})
    val = feature_set("val", {"cat": 5, "dog": 5}, **changes)
    code, stdout, stderr = outcome("--train", train, "--val", val)
    assert (code, stdout) == (1, "")
    assert message in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--leave-one-out", "--n-per-class", 1], "--val-labels and --n-per-class need --val"),
        (["--leave-one-out", "--val-labels", "x"], "--val-labels and --n-per-class need --val"),
        (["--val", "x", "--n-per-class", 0], "--n-per-class must be at least 1, got 0"),
        (["--val", "x", "--n-per-class", 1, "--tries", 1], "--tries must be at least 2"),
        (["--val", "x", "--n-per-class", 1, "--seed", -1], "--seed must not be negative"),
    ],
)
def test_wrong_usage_is_one_line(outcome, args, message):
    code, stdout, stderr = outcome("--train", "x", *args)
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"dino-eval: error: {message}") and stderr.count("\n") == 1


def test_the_device_of_the_search_must_be_there(outcome, feature_set):
    train = feature_set("train", {"cat": 2, "dog": 2})
    code, _, stderr = outcome("--train", train, "--leave-one-out", "--device", "cuda:99")
    assert code == 1 and "device 'cuda:99' cannot be used" in stderr
