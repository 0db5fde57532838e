import numpy as np
import pytest
from PIL import Image

from dino_infer.evaluate.reports.mask_sheets import (
    EDGE,
    label_sheet,
    labelled_picture,
    palette,
    write_palette_mask,
)


def test_colours_are_those_of_voc_and_davis():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 4: (0, 0, 128)}
    known |= {8: (64, 0, 0), 9: (192, 0, 0), 20: (0, 64, 128), 255: (224, 224, 192)}
    colors = palette()
    assert {label: tuple(colors[label].tolist()) for label in known} == known
    assert len(np.unique(colors, axis=0)) == 256


def test_labels_survive_the_file(tmp_path):
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_palette_mask(tmp_path / "new" / "mask.png", mask)
    with Image.open(tmp_path / "new" / "mask.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), mask)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mask.png"]


def test_objects_are_tinted_and_outlined_and_the_frame_is_no_outline():
    picture = np.full((20, 30, 3), 100, np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[:, :10] = 2
    drawn = labelled_picture(picture, mask)
    assert tuple(drawn[5, 3]) == (40, 117, 40) and tuple(drawn[5, 25]) == (110, 110, 110)
    assert tuple(drawn[5, 9]) == EDGE
    assert not (drawn[:, [0, -1]] == EDGE).all(axis=-1).any()


@pytest.mark.parametrize("label", [0, 5])
def test_a_mask_of_one_label_has_no_outline(label):
    drawn = labelled_picture(np.zeros((1, 9, 3), np.uint8), np.full((1, 9), label, np.uint8))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1


def test_rows_of_a_sheet_may_differ_in_length():
    picture = np.zeros((40, 60, 3), np.uint8)
    sheet = label_sheet([(["a", "b", "c"], [picture] * 3), (["d"], [picture])])
    assert sheet.getpixel((sheet.width - 1, sheet.height - 10)) == (255, 255, 255)
