import json
import zipfile

import numpy as np
import pytest
from PIL import Image
from skimage import data

from dino_app.demo.tabs.mask_pictures import (
    PhotoMasks,
    masked_picture,
    smooth_mask,
    upload_mask,
    write_masks,
)
from dino_app.demo.tabs.objects import _drawn
from dino_infer.drawing.overlays import OUTLINE
from dino_infer.objects.maskcut import mask_cut


@pytest.fixture(scope="module")
def look(models):
    return models.model(models.names[0]).look(data.chelsea(), size=64)


def test_a_mask_lies_where_its_patches_are_and_has_no_stairs(look):
    mask = np.zeros((look.view.rows, look.view.columns), dtype=bool)
    mask[2:6, 3:9] = True
    inside = upload_mask(look, mask)
    assert inside.shape == data.chelsea().shape[:2]
    x0, y0, x1, y1 = look.view.box(2, 3, 6, 9)
    assert inside[y0 + 15 : y1 - 15, x0 + 15 : x1 - 15].all()
    assert not inside[y0, x0] and not inside[: y0 - 4].any() and not inside[:, x1 + 4 :].any()
    assert inside.sum() == pytest.approx((x1 - x0) * (y1 - y0), rel=0.15)
    mask[:] = True
    assert upload_mask(look, mask).all()  # the strip that no patch covers too


def test_masks_are_tinted_apart_and_outlined(look):
    masks = [np.zeros(look.shown.shape[:2], dtype=bool) for _ in range(2)]
    masks[0][10:60, 10:60] = masks[1][100:150, 200:300] = True
    drawn = masked_picture(look.shown, masks, opacity=1.0)
    inner = [drawn[12:58, 12:58], drawn[102:148, 202:298]]
    assert all(len(np.unique(one.reshape(-1, 3), axis=0)) == 1 for one in inner)
    assert (inner[0][0, 0] != inner[1][0, 0]).any()
    assert tuple(drawn[10, 30]) == OUTLINE
    assert drawn[300:, :100].mean() < 0.5 * look.shown[300:, :100].mean()
    assert (masked_picture(look.shown, [], opacity=0) == look.shown).all()


def test_masks_are_written_as_pngs_and_for_cocos_tools(tmp_path):
    masks = [np.zeros((30, 40), dtype=bool) for _ in range(2)]
    masks[0][2:12, 5:9] = masks[1][20:30, :] = True
    empty = PhotoMasks("sky.jpg", [np.zeros((8, 6), dtype=bool)])
    path = write_masks([PhotoMasks("cat.jpg", masks), empty], tmp_path)
    with zipfile.ZipFile(path) as archive:
        whole = json.loads(archive.read("masks.json"))
        assert archive.namelist() == ["001-cat.png", "002-sky.png", "masks.json"]
        numbered = np.asarray(Image.open(archive.open("001-cat.png")))
    assert numbered.shape == (30, 40) and [(numbered == i).sum() for i in (1, 2)] == [40, 400]
    assert [image["file_name"] for image in whole["images"]] == ["cat.jpg", "sky.jpg"]
    assert [one["bbox"] for one in whole["annotations"]] == [[5, 2, 4, 10], [0, 20, 40, 10]]
    assert {one["image_id"] for one in whole["annotations"]} == {1}


def test_the_objects_tab_shows_what_the_methods_of_the_library_find(look):
    found = mask_cut(look.keys, objects=2)
    drawn, told = _drawn(look, "MaskCut", 2, 50, boxes=False)
    masks = [smooth_mask(one.mask, *look.shown.shape[:2]) for one in found]
    np.testing.assert_array_equal(drawn, masked_picture(look.shown, masks, opacity=0.5))
    shares = " and ".join(f"{one.mask.mean():.0%}" for one in found)
    assert told.startswith("MaskCut finds") and f"on {shares} of the picture" in told
    assert (_drawn(look, "MaskCut", 2, 50, boxes=True)[0] != drawn).any()
    with pytest.raises(ValueError, match="method must be one of .*got 'GrabCut'"):
        _drawn(look, "GrabCut", 2, 50, boxes=True)
