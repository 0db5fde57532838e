"""Sheets of queries with what was found."""

import numpy as np
from PIL import Image

from dino_infer.evaluate.reports.matches import (
    CELL_PIXELS,
    RIGHT,
    TITLE_PIXELS,
    WRONG,
    Panel,
    matches_sheet,
    picture_of,
)
from dino_infer.sources.image_list import list_images


def colors(picture):
    found = {color for _, color in picture.getcolors(1 << 20)}
    return {f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in found}


def test_a_picture_is_whole_inside_a_frame_of_its_colour():
    blue = np.full((10, 40, 3), (0, 0, 255), np.uint8)
    sheet = matches_sheet(
        [[Panel(blue, "a"), Panel(blue, "b" * 99, RIGHT)], [Panel(blue, "c", WRONG)]]
    )
    assert sheet.size == (2 * CELL_PIXELS, 2 * (CELL_PIXELS + TITLE_PIXELS))
    assert {"#0000ff", RIGHT, WRONG} <= colors(sheet)
    shown = np.array(sheet)[:, :CELL_PIXELS][: CELL_PIXELS + TITLE_PIXELS] == (0, 0, 255)
    rows, columns = np.nonzero(shown.all(axis=-1))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(width - 4 * height) <= 4


def test_a_strip_and_a_sheet_without_rows_are_pictures_too():
    assert matches_sheet([]).size == (CELL_PIXELS, CELL_PIXELS + TITLE_PIXELS)
    assert matches_sheet([[Panel(np.zeros((1, 900, 3), np.uint8), "strip")]]).width == CELL_PIXELS


def test_an_image_that_is_gone_is_grey(tmp_path):
    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.png")
    images = list_images([tmp_path])
    assert picture_of(images, 0).shape == (4, 5, 3)
    (tmp_path / "a.png").unlink()
    assert (picture_of(images, 0) == 128).all()
