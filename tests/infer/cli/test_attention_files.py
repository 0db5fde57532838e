"""Files of dino-attention about one image, from maps that are known."""

import json

import numpy as np
import pytest
from PIL import Image

from dino_infer.attention.maps import AttentionMaps, grid_masks
from dino_infer.cli.attention_files import WRITERS, Drawing, Looking, write_boxes, write_files
from dino_infer.cli.exit_codes import UsageError
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone


@pytest.fixture(scope="module")
def maps():
    heads = np.random.default_rng(0).random((2, 3, 4), dtype=np.float32)
    picture = np.zeros((24, 32, 3), dtype=np.uint8)
    return AttentionMaps(picture, heads, grid_masks(heads, 0.6))


@pytest.fixture(scope="module")
def looking(maps):
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    preprocess = Preprocess(size=24, crop="none", patch_size=8)
    return Looking(look=lambda image, path: maps, backbone=backbone, preprocess=preprocess)


def drawing(**changes):
    plain = {"mass": 0.6, "head": "mean", "opacity": 0.6, "colormap": "inferno", "min_patches": 1}
    return Drawing(**(plain | changes))


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("sheet", ["cat.attention.png"]),
        ("npz", ["cat.attention.npz"]),
        ("overlay", ["cat.overlay.png"]),
        ("mask", ["cat.mask.png"]),
        ("heads", ["cat.head0.png", "cat.head1.png"]),
        ("colors", ["cat.colors.png"]),
    ],
)
def test_each_kind_has_its_files(tmp_path, maps, kind, names):
    assert kind in WRITERS
    written = write_files(tmp_path / "cat", maps, (kind,), drawing())
    assert [path.name for path in written] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_arrays_are_the_maps_and_their_masks(tmp_path, maps):
    (path,) = write_files(tmp_path / "cat", maps, ("npz",), drawing())
    with np.load(path) as arrays:
        np.testing.assert_array_equal(arrays["attention"], maps.heads)
        np.testing.assert_array_equal(arrays["masks"], maps.masks)


def test_all_heads_stand_side_by_side(tmp_path, maps):
    sizes = {}
    for head in ("mean", "all"):
        (path,) = write_files(tmp_path / head, maps, ("overlay",), drawing(head=head))
        with Image.open(path) as picture:
            sizes[head] = picture.size
    assert sizes["mean"] == (32, 24)
    assert np.prod(sizes["all"]) >= 2 * 32 * 24


def test_boxes_are_in_pixels_of_the_image(tmp_path, maps, looking):
    image = np.zeros((48, 64, 3), dtype=np.uint8)
    path = write_boxes(tmp_path / "cat", image, maps, looking, drawing(mass=1.0), name="cat.png")
    about = json.loads(path.read_text())
    assert (about["image"], about["width"], about["height"]) == ("cat.png", 64, 48)
    (box,) = about["boxes"]
    assert [box[name] for name in ("x0", "y0", "x1", "y1", "head")] == [0, 0, 64, 48, "mean"]
    assert box["mass"] == pytest.approx(1)


def test_a_head_that_is_not_there_is_wrong_usage(looking):
    image = np.zeros((24, 32, 3), dtype=np.uint8)
    with pytest.raises(UsageError, match="a number from 0 to 1, got 2"):
        looking.maps(image, name="cat.png", head=2)
