from dataclasses import replace

import numpy as np
import pytest
import torch

from dino_infer.errors import DataError
from dino_infer.evaluate.contestants import with_pixels, with_twin
from dino_infer.evaluate.health import measure_health, prototypes_of, random_views
from dino_infer.evaluate.measures.health import rankme
from dino_infer.networks.build import build_backbone
from dino_infer.sources.image_list import list_images
from dino_infer.weights.info import CheckpointInfo

SOME = {"views": 3, "view_images": 8}


def contestants(**options):
    torch.manual_seed(0)
    info = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32).eval()
    return with_pixels(with_twin(backbone, info, device="cpu", **options))


def test_every_contestant_has_ranks_and_spread(image_folder):
    images = list_images([image_folder()])
    result = measure_health(contestants(), images, **SOME)
    assert [one.of for one in result.figures] == ["model", "untrained", "raw pixels"]
    for one in result.figures:
        assert set(one.values) == {"rankme", "feature_std", "lidar"}
        assert 1 <= one.values["rankme"] <= 12 and 1 <= one.values["lidar"] <= 8
        assert 0 < one.values["feature_std"] < 1
    assert result.images == 12 and result.failed == 0


def test_ranks_are_those_of_the_features_of_the_images(image_folder):
    images = list_images([image_folder()])
    (model, *_) = contestants()
    result = measure_health([model], images, views=0)
    rows = model.rows(images).features
    assert dict(result.model.values)["rankme"] == rankme(torch.from_numpy(rows))
    spectrum = [row[1] for row in result.tables["spectrum"].rows]
    np.testing.assert_allclose(spectrum, np.linalg.svd(rows)[1], rtol=1e-3, atol=1e-3)


def test_the_seed_alone_decides_the_views(image_folder):
    images = list_images([image_folder()])

    def lidar(**options):
        return measure_health(contestants()[:1], images, **SOME, **options).model.values["lidar"]

    assert lidar(seed=1) == lidar(seed=1) != lidar(seed=2)


def test_views_of_an_image_do_not_depend_on_the_batch(image_folder):
    images = list_images([image_folder()])
    values = [
        measure_health(contestants(batch_size=size)[:1], images, **SOME).model.values["lidar"]
        for size in (1, 16)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-3)  # rounding of products


def test_views_are_rectangles_of_the_image_some_of_them_mirrored():
    image = np.arange(60 * 90, dtype=np.uint16).reshape(60, 90)
    image = np.stack([image >> 8, image & 255, 0 * image], axis=-1).astype(np.uint8)
    mirrored = 0
    for view in random_views(image, 200, rng=np.random.default_rng(0)):
        rows, columns = view.shape[:2]
        assert 0.2 < rows * columns / image[..., 0].size <= 1
        assert 0.6 < columns / rows < 1.7
        numbers = view[..., 0].astype(int) * 256 + view[..., 1]
        steps = np.diff(numbers, axis=1)
        assert (steps == 1).all() or (steps == -1).all()
        mirrored += (steps == -1).all()
    assert 70 < mirrored < 130


def test_an_image_of_one_pixel_row_has_views():
    for view in random_views(np.zeros((1, 40, 3), np.uint8), 20, rng=np.random.default_rng(0)):
        assert view.shape[0] == 1 and view.shape[1] >= 1


def test_images_that_cannot_be_read_are_counted_and_left_out(image_folder):
    folder = image_folder()
    (folder / "class_0" / "000.png").write_bytes(b"no image")
    result = measure_health(contestants(), list_images([folder]), **SOME)
    assert (result.images, result.failed) == (12, 1)


def test_one_image_is_refused(image_folder):
    folder = image_folder(count=1)
    with pytest.raises(DataError, match="at least 2 images, got 1"):
        measure_health(contestants(), list_images([folder]), **SOME)


def test_features_that_collapsed_are_told_apart_from_those_that_did_not(image_folder):
    images = list_images([image_folder(count=24, classes=4)])
    model, untrained, _ = contestants(seed=1)
    for parameter in model.backbone.parameters():
        parameter.data.mul_(0.01)
    values = {
        one.of: one.values for one in measure_health([model, untrained], images, **SOME).figures
    }
    assert values["model"]["rankme"] < values["untrained"]["rankme"]


def test_the_share_of_unique_prototypes_is_told_of_the_model_alone(image_folder):
    rows = torch.eye(8).repeat(4, 1)
    images = list_images([image_folder()])
    result = measure_health(contestants(), images, views=0, prototypes=rows)
    shares = [one.values.get("unique_prototypes_percent") for one in result.figures]
    assert shares == [25.0, None, None]


def test_prototypes_come_from_a_training_state_under_any_name(tmp_path, weights):
    model, *_ = contestants()
    for without_head in (None, weights, "timm:resnet18.a1_in1k"):
        assert prototypes_of(replace(model, weights=without_head)) is None
    rows = torch.randn(6, 4)
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32).network.state_dict()
    for name in ("weight_v", "parametrizations.weight.original1"):
        state = {f"backbone.{key}": value for key, value in backbone.items()}
        state |= {f"head.last_layer.{name}": rows, "head.mlp.0.weight": torch.zeros(2, 2)}
        torch.save({"teacher": state, "student": state}, tmp_path / "state.pth")
        found = prototypes_of(replace(model, weights=tmp_path / "state.pth"))
        assert found is not None and torch.equal(found, rows)
