"""dino-eval knn: accuracies, few-shot draws, and the device of the search."""

import csv

import numpy as np
import pytest
import torch

from dino_infer import evaluate
from dino_infer.errors import DataError
from dino_infer.evaluate.data.draws import drawn
from dino_infer.knn import classifier as knn
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import save_checkpoint
from dino_infer.weights.info import CheckpointInfo
from tests.infer.evaluate.labelled_sets import THREE, clusters
from tests.infer.evaluate.tables import figures


def test_few_shot_gives_mean_and_spread_of_seeded_draws(outcome, tmp_path, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 20, "eel": 4}, noise=1.5)
    val = feature_set("val", {"cat": 20, "dog": 20, "eel": 20}, seed=1, noise=1.5)
    args = ("--train", train, "--val", val, "--k", 1, 3, "--n-per-class", 2, 5, "--tries", 4)
    code, stdout, stderr = outcome(*args, "--seed", 7, "-o", tmp_path / "out")
    assert code == 0
    assert "warning: 1 classes have fewer than 5 training images and use all (eel)" in stderr
    rows = list(csv.DictReader((tmp_path / "out" / "few_shot.csv").read_text().splitlines()))
    assert [(row["n_per_class"], row["k"]) for row in rows] == [
        ("2", "1"), ("2", "3"), ("5", "1"), ("5", "3")
    ]  # fmt: skip
    assert all(float(row["top1_percent_std"]) > 0 for row in rows)
    assert "top1_percent_mean" in stdout
    top1 = []
    features, labels = np.load(train), np.repeat(["cat", "dog", "eel"], [9, 20, 4])
    for number in range(4):
        chosen = drawn(labels, 2, rng=np.random.default_rng((7, 2, number)))
        classifier = knn.KNNClassifier(k=3).fit(features[chosen], labels[chosen])
        top1.append(100 * classifier.score(np.load(val), np.repeat(["cat", "dog", "eel"], 20)))
    assert float(rows[1]["top1_percent_mean"]) == pytest.approx(np.mean(top1))
    assert float(rows[1]["top1_percent_std"]) == pytest.approx(np.std(top1, ddof=1))

    assert outcome(*args, "--seed", 7)[1] == stdout
    assert outcome(*args, "--seed", 8)[1] != stdout


def test_images_are_measured_beside_the_untrained_network_and_the_pixels(
    outcome, tmp_path, image_folder
):
    folder = image_folder(count=12, classes=3)
    (folder / "class_1" / "0.png").write_bytes(b"no image")
    torch.manual_seed(1)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    weights = tmp_path / "w.safetensors"
    save_checkpoint(
        weights, backbone, CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    )
    args = ("--train", folder, "--leave-one-out", "--k", 1, "--device", "cpu", "--weights", weights)
    args = (*args, "--cache", tmp_path / "cache")
    code, stdout, stderr = outcome(*args, "-o", tmp_path / "out")
    assert code == 3 and "1 images could not be read" in stderr, stderr
    assert list(figures(stdout)["k1_top1_percent"]) == ["model", "untrained", "raw pixels"]
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3
    _, again, stderr = outcome(*args)
    assert again == stdout and stderr.count("1 of 13 images are new or have changed") == 3
    code, stdout, _ = outcome(*args, "--no-floors")
    assert code == 3 and list(figures(stdout)["k1_top1_percent"]) == ["model"]


def test_a_k_beyond_the_images_drawn_is_clamped_with_one_warning(outcome, feature_set):
    train = feature_set("train", {"cat": 9, "dog": 9})
    code, stdout, stderr = outcome(
        "--train", train, "--val", train, "--k", 5, 9, "--n-per-class", 2, "--tries", 2
    )
    assert code == 0
    assert stderr == "warning: k = 9 is more than the 4 training rows; using all\n"
    rows = [line.split() for line in stdout.split("\n\n")[1].splitlines()[1:]]
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


def test_the_device_of_the_search_must_be_there(outcome, feature_set):
    train = feature_set("train", {"cat": 2, "dog": 2})
    code, _, stderr = outcome("--train", train, "--leave-one-out", "--device", "cuda:99")
    assert code == 1 and "device 'cuda:99' cannot be used" in stderr


def test_arrays_in_memory_are_measured_without_files():
    rng = np.random.default_rng(0)
    labels = ["cat"] * 9 + ["dog"] * 9
    features = (rng.normal(size=(18, 4)) + np.repeat([[3.0], [-3.0]], 9, axis=0)).astype("float32")
    sides = evaluate.sides_of_arrays(features, labels, features[::2], labels[::2])
    result = evaluate.measure_knn(sides, ks=[5])
    assert result.model.values["k5_top1_percent"] == 100
    assert evaluate.measure_knn(evaluate.sides_of_arrays(features, labels), ks=[1]).images == 18
    with pytest.raises(DataError, match="train must have rows and a label for each, got 18 rows"):
        evaluate.sides_of_arrays(features, labels[1:])
    with pytest.raises(DataError, match="`val_labels` come without `val`"):
        evaluate.sides_of_arrays(features, labels, None, labels)
    with pytest.raises(ValueError, match="`tries` must be at least 2 to tell a spread, got 1"):
        evaluate.measure_knn(sides, ks=[5], n_per_class=[2], tries=1)


@pytest.mark.parametrize(
    ("measure", "options"),
    [
        (evaluate.measure_knn, {"ks": [5], "n_per_class": [2]}),
        (evaluate.measure_linear, {"lrs": [0.1], "epochs": 2}),
        (evaluate.measure_logistic, {"cs": [0.01, 1.0]}),
        (evaluate.measure_few_shot, {"n_per_class": [2], "tries": 2}),
    ],
)
def test_every_classifier_takes_lists_tensors_and_arrays(measure, options):
    train, val = (clusters(THREE, seed=seed, noise=2.0) for seed in (0, 1))
    found = []
    for form in (np.asarray, torch.tensor, np.ndarray.tolist):
        sides = evaluate.sides_of_arrays(
            form(train.matrix), train.labels.tolist(), form(val.matrix), val.labels.tolist()
        )
        arrays = {name: np.array(v) if isinstance(v, list) else v for name, v in options.items()}
        found += [measure(sides, **options), measure(sides, **arrays)]
    first, *others = [one.as_json() for one in found]
    assert all(one == first for one in others)
