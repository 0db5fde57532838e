"""Sheets of attention: a panel for everything, words beside the pictures."""

import numpy as np
import pytest

from dino_infer.attention.maps import AttentionMaps
from dino_infer.drawing.overlays import QUERY, heatmap
from dino_infer.drawing.sheets import attention_picture, marked_picture

PANEL_PIXELS, GAP = 288, 4
COLOUR_ROUNDING = 1  # of 255, by the filter that resizes


def example(heads=3, rows=4, columns=6, patch=8, query=None):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, size=(rows * patch, columns * patch, 3), dtype=np.uint8)
    maps = rng.random((heads, rows, columns), dtype=np.float32) / (rows * columns)
    return AttentionMaps(picture, maps, maps > np.median(maps), query)


def test_a_sheet_has_a_panel_for_the_image_the_mean_and_every_head():
    item = example(heads=3)
    with_masks, without = attention_picture([item]), attention_picture([item], masks=False)
    assert with_masks.mode == "RGB"
    assert with_masks.width == without.width == 5 * PANEL_PIXELS
    assert with_masks.height > 1.7 * without.height
    assert attention_picture([item, item], masks=False).height > 1.8 * without.height


def test_a_single_map_has_no_mean_beside_it():
    assert attention_picture([example(heads=1)], masks=False).width == 2 * PANEL_PIXELS


def test_the_colour_map_of_a_sheet_can_be_chosen():
    inferno, gray = (
        np.asarray(attention_picture([example()], masks=False, colormap=name))
        for name in ("inferno", "gray")
    )
    panel = np.s_[-40:, -PANEL_PIXELS + 10 : -10]
    assert np.ptp(inferno[panel].astype(int), axis=-1).max() > 100
    assert np.ptp(gray[panel].astype(int), axis=-1).max() == 0


def test_items_with_other_heads_do_not_share_a_sheet():
    with pytest.raises(ValueError, match=r"same number of heads, got \[3, 4\]"):
        attention_picture([example(heads=3), example(heads=4)])
    with pytest.raises(ValueError, match=r"got \[\]"):
        attention_picture([])


def test_the_patch_that_asks_is_framed():
    item = example(query=(2, 3))
    marked = marked_picture(item)
    framed = (marked == np.array(QUERY)).all(axis=-1)
    rows, columns = np.nonzero(framed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (13, 26, 21, 34)
    inside = np.s_[16:24, 24:32]
    assert np.array_equal(marked[inside], item.picture[inside])
    assert np.array_equal(marked_picture(example()), example().picture)


@pytest.mark.parametrize(("rows", "columns"), [(1, 16), (1, 4), (4, 6), (16, 4)])
def test_words_are_neither_cut_nor_laid_over_pictures(rows, columns):
    sheet = np.asarray(attention_picture([example(rows=rows, columns=columns)] * 2))
    for item in np.split(sheet, 2):
        pictures = np.flatnonzero((item[:, GAP] < 255).any(axis=-1))
        for panel in range(5):
            left = panel * PANEL_PIXELS
            assert_words_inside(item[: pictures[0], left : left + PANEL_PIXELS], lines=1)
        assert_words_inside(item[pictures[-1] + 1 :, :PANEL_PIXELS], lines=3)


def assert_words_inside(box, *, lines):
    has_ink = (box < 128).any(axis=(1, 2))
    assert np.count_nonzero(np.diff(has_ink.astype(int)) == 1) >= lines  # an i has its dot
    edges = (box[0], box[-1], box[:, 0], box[:, -1])
    assert all((edge == 255).all() for edge in edges)


@pytest.mark.parametrize("patch", [8, 16, 80])  # enlarged sharply, enlarged smoothly, reduced
def test_every_patch_has_its_colour_where_the_image_has_the_patch(patch):
    item = example(heads=1, patch=patch)
    sheet = np.asarray(attention_picture([item], masks=False))
    shown = PANEL_PIXELS - GAP
    panel = sheet[-round(shown * 4 / 6) - GAP : -GAP, -shown - GAP // 2 : -GAP // 2]
    centres = panel[np.arange(4)[:, None] * 47 + 23, np.arange(6) * 47 + 23]
    assert np.abs(centres.astype(int) - heatmap(item.heads[0])).max() <= COLOUR_ROUNDING
