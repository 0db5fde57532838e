import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.errors import CheckpointError
from dino_infer.evaluate.data.mask_sets import mask_sets
from dino_infer.evaluate.dense_knn import KNN, LOGISTIC, DenseOptions, measure_dense_knn
from tests.infer.evaluate.masked import networks, striped

SIZE, GRID, PATCH = 32, 4, 8
OPTIONS = DenseOptions(size=SIZE, k=5)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return mask_sets(striped(tmp_path_factory.mktemp("striped")))


def patches_of(network, picture):
    """Patch tokens of length 1."""
    preprocess = network.preprocess(size=(SIZE, SIZE), crop="none")
    with torch.inference_mode():
        tokens = network.backbone.tokens(preprocess(picture)[None]).patches[0]
    rows = tokens.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def soft_labels(labels, classes):
    """Share of each class in each patch, pixel by pixel; NaN for a patch that is void."""
    height, width = labels.shape
    counts = np.zeros((GRID * GRID, len(classes)))
    for y in range(height):
        for x in range(width):
            patch = int((y + 0.5) * GRID / height) * GRID + int((x + 0.5) * GRID / width)
            counts[patch] += labels[y, x] == classes
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def bilinear(values, height, width):
    """Values of a grid of patches at the centre of each pixel."""
    found = np.empty((height, width, values.shape[-1]))
    for y in range(height):
        for x in range(width):
            v = np.clip((y + 0.5) * GRID / height - 0.5, 0, GRID - 1)
            u = np.clip((x + 0.5) * GRID / width - 0.5, 0, GRID - 1)
            j, i = min(int(v), GRID - 2), min(int(u), GRID - 2)
            top = values[j, i] * (1 - u + i) + values[j, i + 1] * (u - i)
            bottom = values[j + 1, i] * (1 - u + i) + values[j + 1, i + 1] * (u - i)
            found[y, x] = top * (1 - v + j) + bottom * (v - j)
    return found


def oracle(network, sets, *, k, temperature):
    """The protocol written plainly: every pair of patches, every pixel."""
    rows, labels = [], []
    for i in range(len(sets.memory)):
        soft = soft_labels(sets.memory.class_labels(i), sets.classes)
        known = ~np.isnan(soft[:, 0])
        rows.append(patches_of(network, sets.memory.picture(i))[known])
        labels.append(soft[known])
    memory, shares = np.concatenate(rows), np.concatenate(labels)
    pixels = {label: [0, 0] for label in sets.classes.tolist()}
    for i in range(len(sets.queries)):
        wanted = sets.queries.class_labels(i)
        scores = []
        for query in patches_of(network, sets.queries.picture(i)):
            similar = memory @ query
            near = np.argsort(-similar)[:k]
            weights = np.exp(similar[near] / temperature)
            scores.append(weights @ shares[near] / weights.sum())
        found = sets.classes[
            bilinear(np.reshape(scores, (GRID, GRID, -1)), *wanted.shape).argmax(axis=-1)
        ]
        for label, (_, _) in pixels.items():
            one, two = (wanted == label), (found == label) & (wanted >= 0)
            pixels[label][0] += int((one & two).sum())
            pixels[label][1] += int((one | two).sum())
    return 100 * np.mean([shared / union for shared, union in pixels.values() if union])


def test_the_figure_is_that_of_the_protocol_written_plainly(sets):
    (model,) = networks(floors=False)
    result = measure_dense_knn([model], sets, options=OPTIONS)
    expected = oracle(model, sets, k=5, temperature=0.02)
    # Pixels where two classes are equal up to float32 may fall to either.
    assert result.model.values[KNN] == pytest.approx(expected, abs=0.1)


def test_floors_stand_beside_the_model(sets):
    result = measure_dense_knn(networks(), sets, options=OPTIONS)
    assert [one.of for one in result.figures] == [
        "model",
        "untrained",
        "raw pixels",
        "most frequent class",
    ]
    values = {one.of: one.values for one in result.figures}
    assert values["raw pixels"][KNN] > 60 > values["most frequent class"][KNN]
    assert values["raw pixels"][LOGISTIC] > 60
    wanted = np.concatenate([sets.queries.class_labels(i).ravel() for i in range(3)])
    most = sets.classes[sets.pixels.argmax()]
    share = 100 * (wanted == most).sum() / (wanted >= 0).sum()
    assert values["most frequent class"][KNN] == pytest.approx(share / 3)
    assert set(values["most frequent class"]) == set(values["model"])


def test_smaller_shares_of_the_images_have_figures_of_their_own(sets):
    options = dataclasses.replace(OPTIONS, subsets=(1, 3), logistic=False)
    result = measure_dense_knn(networks(floors=False), sets, options=options)
    assert list(result.model.values) == ["miou_percent", "miou_1_3_percent"]
    alone = dataclasses.replace(OPTIONS, subsets=(3,), logistic=False)
    again = measure_dense_knn(networks(floors=False), sets, options=alone)
    assert again.headline == "miou_1_3_percent"
    assert again.model.values["miou_1_3_percent"] == result.model.values["miou_1_3_percent"]


def test_the_regression_is_on_the_largest_memory_whatever_the_order(sets):
    values = [
        measure_dense_knn(
            networks(floors=False), sets, options=dataclasses.replace(OPTIONS, subsets=subsets)
        ).model.values[LOGISTIC]
        for subsets in ((1,), (3, 1))
    ]
    assert values[0] == values[1]


def test_the_same_seed_gives_the_same_figures(sets):
    options = dataclasses.replace(OPTIONS, memory_size=20)
    one, two = (measure_dense_knn(networks(), sets, options=options) for _ in range(2))
    assert one.as_json() == two.as_json()


def test_more_than_a_thousand_classes_are_measured(tmp_path):
    folder = striped(tmp_path, count=4)
    for i in range(4):
        labels = np.arange(36 * 48, dtype=np.uint16).reshape(36, 48)
        Image.fromarray(labels).save(folder / f"masks/{i}.png")
    sets = mask_sets(folder, levels="labels")
    options = dataclasses.replace(OPTIONS, logistic=False)
    result = measure_dense_knn(networks(floors=False), sets, options=options)
    assert result.data["classes"] == 36 * 48
    assert 0 < result.model.values[KNN] < 5


def test_classes_without_an_example_count_as_wrong(tmp_path):
    train = striped(tmp_path / "train", count=3, classes=2)
    val = striped(tmp_path / "val", count=3, classes=3)
    sets = mask_sets(train, val=val)
    result = measure_dense_knn(networks(floors=False), sets, options=OPTIONS)
    assert result.data["classes_without_example"] == 1
    assert [row[2:4] for row in result.tables["classes"].rows][2] == (0.0, 0.0)
    assert result.model.values[LOGISTIC] < 67


def test_damaged_images_are_counted_and_do_not_end_the_run(tmp_path):
    folder = striped(tmp_path)
    for i in (1, 4):
        path = folder / f"images/{i}.png"
        path.write_bytes(path.read_bytes()[:300])
    result = measure_dense_knn(networks(), mask_sets(folder), options=OPTIONS)
    assert (result.images, result.failed) == (6, 2)


def test_a_size_that_is_no_multiple_of_a_patch_is_cut_and_below_one_refused(sets):
    options = dataclasses.replace(OPTIONS, size=31, logistic=False)
    assert measure_dense_knn(networks(floors=False), sets, options=options).settings["size"] == 24
    with pytest.raises(ValueError, match="`size` must be at least one patch of 8 px, got 7"):
        measure_dense_knn(networks(), sets, options=dataclasses.replace(OPTIONS, size=7))


@pytest.mark.parametrize("name", ["size", "k", "temperature", "memory_size"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` must be above 0, got 0"):
        DenseOptions(**{name: 0})


@pytest.mark.parametrize("subsets", [(), (1, 0)])
def test_shares_must_be_numbers_of_images(subsets):
    with pytest.raises(ValueError, match="`subsets` must be above 0"):
        DenseOptions(subsets=subsets)


def test_a_convnet_has_no_patches(sets):
    with pytest.raises(CheckpointError, match="needs a Vision Transformer"):
        measure_dense_knn(networks("resnet_micro", floors=False), sets, options=OPTIONS)
