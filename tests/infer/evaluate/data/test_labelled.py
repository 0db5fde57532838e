"""Features with a class each: from images or files, and which of them may be compared."""

import json

import numpy as np
import pytest

from dino_infer.cli import embed
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import DataError
from dino_infer.evaluate.contestants import Exported
from dino_infer.evaluate.data.labelled import labelled_arrays, labelled_images
from dino_infer.features.files import sha256_of
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from tests.infer.evaluate.tables import labels_csv


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
    found = labelled_images(str(folder), label_file=labels).features(Exported(made=embedder))
    assert list(found.labels) == [f"class_{i}" for i in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert (found.matrix.shape[0], found.images, found.failed) == (9, 10, 1)
    with pytest.raises(DataError, match="has no labels"):
        labelled_images(str(folder))


def test_a_link_is_not_its_own_nearest_neighbour(tmp_path, image_folder):
    folder = image_folder(count=3, classes=1)
    real = sorted(folder.glob("*/*.png"))
    (folder / "alias.png").symlink_to(real[0])
    (folder / "link.png").hardlink_to(real[1])
    names = [str(path.relative_to(folder)) for path in folder.rglob("*.png")]
    labels = labels_csv(tmp_path / "labels.csv", names)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    embedder = Embedder(backbone, Preprocess(size=32), device="cpu", workers=1)
    found = labelled_images(str(folder), label_file=labels).features(Exported(made=embedder))
    assert (found.images, len(found.matrix)) == (3, 3)
    assert set(found.labels) == {str(path.relative_to(folder)) for path in real}


def test_rows_of_links_in_a_feature_file_are_told(tmp_path, image_folder, outcome):
    folder = image_folder(count=6, classes=2)
    real = sorted(folder.glob("class_0/*.png"))
    (folder / "class_0" / "alias.png").symlink_to(real[0])
    (folder / "class_0" / "link.png").hardlink_to(real[1])
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    save_checkpoint(tmp_path / "w.safetensors", backbone, info)
    out = tmp_path / "f.npy"
    args = [str(folder), "-o", str(out), "--weights", str(tmp_path / "w.safetensors")]
    assert embed.main([*args, "--device", "cpu"]) == 0
    code, _, stderr = outcome("--train", out, "--leave-one-out", "--k", 1)
    assert code == 0 and f"2 rows of {out} may be links" in stderr


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
        ({"dim": 4}, "they differ in width (6 and 4); "),
        ({"weights_sha256": "cd"}, "they differ in weights_sha256 ("),
        (
            {"preprocess": {"size": 9}, "feature": "mean"},
            "they differ in feature ('cls' and 'mean'), ",
        ),
    ],
)
def test_features_made_differently_are_refused(outcome, feature_set, changes, message):
    train = feature_set("train", {"cat": 5, "dog": 5})
    val = feature_set("val", {"cat": 5, "dog": 5}, **changes)
    code, stdout, stderr = outcome("--train", train, "--val", val)
    assert (code, stdout) == (1, "")
    assert message in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.0, 1.0], [np.nan, 1.0]], "'train': row 1 holds NaN or infinity"),
        ([[0.0, 1.0], [1e300, 1.0]], "'train': row 1 holds NaN or infinity"),
        ([0.0, 1.0], r"shape \(rows, dim\) and labels \(rows,\), got \(2,\) and \(2,\)"),
        (np.zeros((2, 3, 4)), r"got \(2, 3, 4\) and \(2,\)"),
        ([["a"], ["b"]], "train must be rows of numbers"),
        ([[1, 2], [3]], "train must be rows of numbers"),
    ],
)
def test_arrays_that_are_no_rows_of_finite_numbers_are_refused(matrix, message):
    with pytest.raises(DataError, match=message):
        labelled_arrays("train", matrix, ["cat", "dog"])
