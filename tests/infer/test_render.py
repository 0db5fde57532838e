"""Sheets of attention: a panel for everything, and nothing global left behind."""

import sys

import numpy as np
import pytest

from dino_infer.attention import AttentionMaps
from dino_infer.overlays import QUERY
from dino_infer.render import attention_picture, marked_picture

PANEL_PIXELS = 288


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


def test_drawing_leaves_no_global_figures_behind():
    attention_picture([example()])
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
