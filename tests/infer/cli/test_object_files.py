"""Files of dino-attention about the objects in one image, from masks that are known."""

import json

import numpy as np
import pytest
from PIL import Image

from dino_infer.cli.attention_files import Drawing, Looking
from dino_infer.cli.object_files import write_object_boxes, write_object_files
from dino_infer.drawing.overlays import TINT
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import build_backbone
from dino_infer.objects.find import ObjectMasks
from dino_infer.objects.found import FoundObject

DRAWING = Drawing(mass=0.6, head="mean", opacity=0.6, colormap="inferno", min_patches=1)
PICTURE = np.zeros((24, 32, 3), dtype=np.uint8)


def object_at(row, column, size=1):
    mask = np.zeros((3, 4), dtype=bool)
    mask[row, column : column + size] = True
    return FoundObject(mask, np.where(mask, 1.0, -1.0), (row, column))


TWO = ObjectMasks(PICTURE, (3, 4), (object_at(0, 0, size=2), object_at(2, 3)))
NONE = ObjectMasks(PICTURE, (3, 4), ())


@pytest.mark.parametrize("found", [TWO, NONE])
def test_each_kind_has_its_file_even_without_an_object(tmp_path, found):
    kinds = ("sheet", "npz", "overlay", "mask")
    written = write_object_files(tmp_path / "cat", found, kinds, DRAWING, method="maskcut")
    names = ["cat.maskcut.png", "cat.maskcut.npz", "cat.overlay.png", "cat.mask.png"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    with np.load(tmp_path / "cat.maskcut.npz") as arrays:
        np.testing.assert_array_equal(arrays["masks"], found.masks)
        assert arrays["scores"].shape == (len(found.objects), 3, 4)


def test_objects_stand_side_by_side_in_their_colour(tmp_path):
    (path,) = write_object_files(tmp_path / "cat", TWO, ("mask",), DRAWING, method="maskcut")
    with Image.open(path) as picture:
        assert picture.size == (32 + 4 + 32, 24)
        left, right = np.asarray(picture)[:, :32], np.asarray(picture)[:, 36:]
    assert left[4, 8, 0] > left[20, 28, 0] and right[20, 28, 0] > right[4, 8, 0]
    assert left[4, 8, 0] == round(0.45 * TINT[0])


def test_boxes_are_in_pixels_of_the_image_and_small_objects_may_go_without(tmp_path):
    backbone = build_backbone("vit_micro", patch_size=8, image_size=32)
    preprocess = Preprocess(size=24, crop="none", patch_size=8)
    looking = Looking(
        look=lambda image, path: TWO, backbone=backbone, preprocess=preprocess, method="maskcut"
    )
    image, boxes = np.zeros((48, 64, 3), dtype=np.uint8), {}
    for least in (1, 2):
        drawing = Drawing(**(vars(DRAWING) | {"min_patches": least}))
        path = write_object_boxes(tmp_path / "a", image, TWO, looking, drawing, name="a.png")
        boxes[least] = json.loads(path.read_text())["boxes"]
    first, second = boxes[1]
    assert first == {
        "x0": 0,
        "y0": 0,
        "x1": 32,
        "y1": 16,
        "mass": pytest.approx(2 / 2),
        "object": 1,
    }
    assert [second[name] for name in ("x0", "y0", "x1", "y1", "object")] == [48, 32, 64, 48, 2]
    assert boxes[2] == [first]
