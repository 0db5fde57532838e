"""dino-eval linear: the choice, the spread, the floors, and the head that it leaves."""

import json

import numpy as np
import pytest

from dino_infer.cli import eval as evaluation
from dino_infer.errors import DataError, TrainingError
from dino_infer.evaluate.knn import Sides
from dino_infer.evaluate.linear import measure_linear, published_feature, train_linear
from dino_infer.heads import LinearHead
from dino_infer.networks.build import build_backbone, vision_transformer
from tests.infer.evaluate.labelled_sets import THREE, clusters
from tests.infer.evaluate.tables import figures


def test_the_learning_rate_is_chosen_without_the_images_to_classify():
    train = clusters(THREE, noise=1.0)
    val, other = clusters(THREE, seed=1, noise=1.0), clusters(THREE, seed=2, noise=3.0)
    results = [measure_linear({"model": Sides(train, one)}, epochs=5) for one in (val, other)]
    assert results[0].settings["lrs"] == results[1].settings["lrs"]
    assert results[0].tables["learning_rates"] == results[1].tables["learning_rates"]
    assert len(results[0].tables["learning_rates"].rows) >= 12


def test_of_all_learning_rates_the_best_on_held_out_images_trains_on_all():
    train = clusters(THREE, noise=1.0)
    trained = train_linear(train, lrs=[1e-6, 0.3, 1e-5], epochs=20)
    shares = [share for _, share in trained.held_out.rows]
    assert trained.chosen == 0.3 and shares[1] == max(shares)
    again = train_linear(train, lrs=[0.3], epochs=20)
    np.testing.assert_allclose(again.heads[0].weight, trained.heads[0].weight, rtol=1e-4)


def test_learning_rates_that_diverge_are_dropped(caplog):
    train = clusters(THREE, noise=1.0)
    trained = train_linear(train, lrs=[1e38, 0.3], epochs=20)
    assert trained.chosen == 0.3 and [lr for lr, _ in trained.held_out.rows] == [0.3]
    assert "learning rates that diverge are dropped: 1e+38" in caplog.text
    with pytest.raises(TrainingError, match=r"every learning rate diverges \(1e\+38\)"):
        train_linear(train, lrs=[1e38], epochs=20)


def test_the_spread_is_over_trainings_from_other_weights():
    sides = {"model": Sides(clusters(THREE, noise=2.0), clusters(THREE, seed=1, noise=2.0))}
    one = measure_linear(sides, epochs=2, tries=1, lrs=[0.01])
    several = measure_linear(sides, epochs=2, tries=4, lrs=[0.01])
    shares = [top1 for _, top1, _ in several.tables["tries"].rows]
    assert len(shares) == 4 and several.model.values["top1_percent"] == np.mean(shares)
    for result, spread in ((one, 0), (several, np.std(shares, ddof=1))):
        top1 = result.model.values["top1_percent"]
        error = (top1 * (100 - top1) / 120) ** 0.5  # of a share of 120 images
        assert result.model.spreads["top1_percent"] == pytest.approx(np.hypot(error, spread))
    trained = train_linear(sides["model"].train, epochs=2, tries=2, lrs=[0.01])
    assert not np.array_equal(trained.heads[0].weight, trained.heads[1].weight)


def test_classes_without_a_training_image_count_as_wrong(caplog):
    val = clusters(THREE | {"yak": 40}, seed=1, noise=0.01)
    result = measure_linear({"model": Sides(clusters(THREE, noise=0.01), val)}, epochs=20)
    assert result.model.values == {"top1_percent": 75.0, "top5_percent": 75.0}
    assert "1 classes of set have no training image and count as wrong (yak)" in caplog.text


def test_one_class_is_always_right():
    sides = Sides(clusters({"cat": 5}), clusters({"cat": 3}, seed=1))
    result = measure_linear({"model": sides}, epochs=2, tries=1)
    assert result.model.values["top1_percent"] == 100


def test_more_than_a_thousand_classes_are_told_apart():
    counts = {f"class {i:04}": 3 for i in range(1100)}
    train, val = clusters(counts, noise=0.01, dim=32), clusters(counts, seed=1, noise=0.01, dim=32)
    result = measure_linear({"model": Sides(train, val)}, lrs=[0.5], epochs=15, tries=1)
    assert result.model.values["top1_percent"] > 95


def test_classes_of_one_image_leave_nothing_to_choose_by(caplog):
    sides = Sides(clusters({"cat": 1, "dog": 1}), clusters({"cat": 3, "dog": 3}, seed=1))
    measure_linear({"model": sides}, epochs=2, tries=1)
    assert "no class has two training images" in caplog.text


def test_images_to_classify_are_needed():
    with pytest.raises(DataError, match="'set' comes without images to classify; pass `val` too"):
        measure_linear({"model": Sides(clusters(THREE), None)})


@pytest.mark.parametrize(
    ("embed_dim", "depth", "feature"), [(24, 12, "last4"), (24, 2, "last2"), (768, 1, "last1+mean")]
)
def test_the_published_feature_follows_the_size_of_the_network(embed_dim, depth, feature):
    vit = vision_transformer(embed_dim=embed_dim, depth=depth, num_heads=3, patch_size=4)
    assert published_feature(vit) == feature


def test_the_published_feature_of_a_convnet_is_its_pooled_features():
    assert published_feature(build_backbone("resnet_micro")) == "cls"


def run(capsys, *args):
    code = evaluation.main(["linear", *(str(arg) for arg in args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_images_leave_figures_floors_and_a_head(capsys, tmp_path, image_folder, weights):
    folder = image_folder(count=12, classes=3)
    out = tmp_path / "out"
    args = ("--train", folder, "--val", folder, "--weights", weights, "--epochs", 3)
    args = (*args, "--device", "cpu", "--cache", tmp_path / "cache", "--feature", "last2+mean")
    code, stdout, stderr = run(capsys, *args, "-o", out)
    assert code == 0, stderr
    of = ["model", "untrained", "raw pixels", "majority class"]
    assert json.loads((out / "result.json").read_text())["headline"] == "top1_percent"
    assert [one["of"] for one in json.loads((out / "result.json").read_text())["figures"]] == of
    names = {"classes.csv", "confusion.png", "head.safetensors", "learning_rates.csv", "tries.csv"}
    assert {path.name for path in out.iterdir()} == names | {"result.json"}
    head = LinearHead.load(out / "head.safetensors")
    assert head.classes == ("class_0", "class_1", "class_2")
    assert head.made_by["feature"] == "last2+mean" and head.made_by["preprocess"]["exact_decode"]
    assert head.made_by["weights"] == str(weights)
    assert run(capsys, *args)[1] == stdout
    assert code == 0 and "held_out_top1_percent" in stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--lr", "0"], "--lr must be above 0, got 0.0"),
        (["--lr", "nan"], "--lr must be above 0, got nan"),
        (["--lr", "inf"], "--lr must be finite, got inf"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--tries", "0"], "--tries must be at least 1, got 0"),
        (["--feature", "last4"], "--feature is for images; feature files hold theirs"),
        (["--weights", "w.pt"], "flags about networks and images are for images"),
    ],
)
def test_wrong_usage_is_one_line(capsys, feature_set, args, message):
    train, val = feature_set("train", {"cat": 5, "dog": 5}), feature_set("val", {"cat": 3})
    code, _, stderr = run(capsys, "--train", train, "--val", val, *args)
    assert code == 2 and message in stderr and len(stderr.splitlines()) == 1


def test_feature_files_are_classified(capsys, feature_set):
    train = feature_set("train", {"cat": 20, "dog": 20})
    val = feature_set("val", {"cat": 10, "dog": 10}, seed=1)
    code, stdout, _ = run(capsys, "--train", train, "--val", val, "--epochs", 5, "--tries", 1)
    assert code == 0 and figures(stdout)["top1_percent"]["model"] > 80
