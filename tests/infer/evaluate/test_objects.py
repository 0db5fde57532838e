"""Figures of objects equal plain counts of pixels and boxes, and bad images are named."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, fbeta_score, jaccard_score

from dino_infer.attention.views import view_of
from dino_infer.errors import CheckpointError, DataError
from dino_infer.evaluate.contestants import with_twin
from dino_infer.evaluate.data.annotated import with_mask_boxes, with_voc_boxes
from dino_infer.evaluate.data.masks import masked_images
from dino_infer.evaluate.objects import METHODS, measure_objects
from dino_infer.networks.build import build_backbone
from dino_infer.objects.find import find_objects
from dino_infer.weights.info import CheckpointInfo

EXACT = 1e-9  # percent: sums of whole numbers, divided


def networks(arch="vit_micro", **options):
    torch.manual_seed(3)
    backbone = build_backbone(arch, patch_size=8, image_size=32).eval()
    info = CheckpointInfo(arch=arch, patch_size=8, image_size=32)
    return with_twin(backbone, info, device="cpu", **options)


@pytest.fixture
def squares(tmp_path):
    """Three noisy images with a bright square each, whose right edge is void."""
    rng = np.random.default_rng(0)
    for i in range(3):
        image = rng.integers(0, 90, (48, 64, 3))
        labels = np.zeros((48, 64))
        labels[8:32, 8 + 8 * i : 32 + 8 * i] = 1
        labels[:, -2:] = 255
        image[labels == 1] += 150
        for folder, pixels in (("images", image), ("masks", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def overlap(box, truth):
    """Intersection over union of two boxes by the pixels that they cover."""
    (x0, y0, x1, y1), (a0, b0, a1, b1) = box[:4], truth
    one, other = np.zeros((2, 48, 64), dtype=bool)
    one[y0:y1, x0:x1] = other[b0:b1, a0:a1] = True
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("method", ["tokencut", "lost", "maskcut"])
def test_figures_equal_plain_counts(squares, method):
    (model,) = networks(floors=False)
    masked = masked_images(squares)
    result = measure_objects([model], with_mask_boxes(masked), size=48)
    preprocess = model.preprocess(size=48, crop="none")
    view = view_of(48, 64, preprocess=preprocess, patch_size=8)
    rows = []
    for i in range(3):
        found = find_objects(
            masked.picture(i), backbone=model.backbone, preprocess=preprocess, method=method
        ).objects
        labels = masked.object_labels(i)
        mask = np.kron(found[0].mask, np.ones((8, 8))) > 0
        pair = labels[labels >= 0] == 1, mask[labels >= 0]
        truth = (8 + 8 * i, 8, 32 + 8 * i, 32)
        overlaps = [overlap(one.box(view), truth) for one in found]
        rows.append(
            [
                jaccard_score(*pair),
                fbeta_score(*pair, beta=0.3**0.5),
                accuracy_score(*pair),
                overlaps[0] >= 0.5,
                max(overlaps) >= 0.5,
            ]
        )
    names = [
        f"{method}_{name}_percent" for name in ("iou", "max_f", "accuracy", "corloc", "located")
    ]
    for name, values in zip(names, 100 * np.array(rows, float).T, strict=True):
        if name == "tokencut_located_percent" or name == "lost_located_percent":
            assert name not in result.model.values
            continue
        assert result.model.values[name] == pytest.approx(values.mean(), abs=EXACT)
        spread = values.std(ddof=1) / 3**0.5
        assert result.model.spreads[name] == pytest.approx(spread, abs=EXACT)


def test_the_model_stands_beside_its_floors(squares):
    result = measure_objects(networks(), with_mask_boxes(masked_images(squares)), size=48)
    assert [one.of for one in result.figures] == ["model", "untrained", "centred ellipse"]
    assert result.headline == "tokencut_iou_percent"
    model, _, ellipse = (one.values for one in result.figures)
    assert model.keys() == ellipse.keys()
    assert len({ellipse[f"{method}_iou_percent"] for method in METHODS}) == 1
    y, x = np.ogrid[:48, :64]
    inside = ((2 * y + 1 - 48) / 28.8) ** 2 + ((2 * x + 1 - 64) / 38.4) ** 2 <= 1
    truths = [masked_images(squares).object_labels(i) for i in range(3)]
    expected = [jaccard_score(t[t >= 0] == 1, inside[t >= 0]) for t in truths]
    assert ellipse["lost_iou_percent"] == pytest.approx(100 * np.mean(expected), abs=EXACT)
    assert result.pictures["sheet"].width == 6 * 288
    assert [row[0] for row in result.tables["images"].rows] == ["0.png", "1.png", "2.png"]
    assert result.data["boxes_from"] == "masks"
    assert result.data["images_without_an_object"]["lost"] == 0


def test_boxes_alone_give_localisation_alone(squares):
    box = "".join(
        f"<{n}>{v}</{n}>" for n, v in (("xmin", 9), ("ymin", 9), ("xmax", 32), ("ymax", 32))
    )
    for i in range(3):
        text = f"<annotation><object><bndbox>{box}</bndbox></object></annotation>"
        (squares / "masks" / f"{i}.xml").write_text(text)
    data = with_voc_boxes(squares / "images", squares / "masks")
    result = measure_objects(networks(floors=False), data, size=48)
    names = {f"{method}_corloc_percent" for method in METHODS} | {"maskcut_located_percent"}
    assert result.model.values.keys() == names and result.headline == "tokencut_corloc_percent"


def test_an_image_where_nothing_stands_out_counts_as_not_found(squares):
    (model,) = networks(floors=False)
    with torch.no_grad():
        for block in model.backbone.network.blocks:
            block.attn.qkv.weight.zero_()
            block.attn.qkv.bias.fill_(1)
    result = measure_objects([model], with_mask_boxes(masked_images(squares)), size=48)
    assert result.data["images_without_an_object"] == {"tokencut": 3, "lost": 0, "maskcut": 3}
    assert result.model.values["tokencut_iou_percent"] == 0
    assert result.model.values["tokencut_corloc_percent"] == 0


def test_an_image_that_breaks_after_it_was_listed_is_counted(squares):
    data = with_mask_boxes(masked_images(squares))
    (squares / "images/1.png").write_bytes(b"no picture")
    result = measure_objects(networks(floors=False), data, size=48)
    assert (result.images, result.failed, result.data["images"]) == (3, 1, 2)
    for i in (0, 2):
        (squares / f"images/{i}.png").unlink()
    with pytest.raises(DataError, match="no image of .* could be read"):
        measure_objects(networks(floors=False), data, size=48)


def test_sizes_and_networks_that_cannot_be_measured_are_refused(squares):
    data = with_mask_boxes(masked_images(squares))
    with pytest.raises(ValueError, match="`size` must be at least one patch of 8 px, got 7"):
        measure_objects(networks(floors=False), data, size=7)
    with pytest.raises(CheckpointError, match="needs a Vision Transformer"):
        measure_objects(networks("resnet18", floors=False), data, size=48)
