"""Pictures of attention: right panels, right colours, whole files."""

import numpy as np
import pytest
from PIL import Image

from dino_infer.attention import AttentionMaps
from dino_infer.render import (
    attention_picture,
    heat_overlay,
    heatmap,
    mask_overlay,
    write_attention,
)


def example(heads=3, rows=4, columns=6, patch=8):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, size=(rows * patch, columns * patch, 3), dtype=np.uint8)
    maps = rng.random((heads, rows, columns), dtype=np.float32) / (rows * columns)
    return AttentionMaps(picture, maps, maps > np.median(maps))


def test_a_heatmap_runs_from_dark_to_bright():
    colors = heatmap(np.array([[0.0, 0.5, 1.0]])).astype(int).sum(axis=-1)[0]
    assert colors[0] < colors[1] < colors[2]


def test_a_constant_map_is_drawn_dark_and_without_a_warning():
    assert heatmap(np.full((2, 2), 0.25)).max() < 16


def test_a_mask_tints_inside_and_greys_outside():
    picture = np.full((16, 16, 3), (0, 0, 200), dtype=np.uint8)
    mask = np.array([[True, False], [False, False]])
    mixed = mask_overlay(picture, mask)
    red, green, blue = mixed[2, 2]
    assert red > green and red > 100 and blue > 50
    assert len(set(mixed[14, 14])) == 1
    assert tuple(mixed[7, 3]) == (255, 255, 255)  # the outline, on the inner side
    assert tuple(mixed[0, 0]) != (255, 255, 255)  # but not along the frame


def test_a_heat_overlay_keeps_the_size_of_the_picture():
    item = example()
    mixed = heat_overlay(item.picture, item.heads[0], opacity=0.0)
    assert np.array_equal(mixed, item.picture)
    assert not np.array_equal(heat_overlay(item.picture, item.heads[0]), item.picture)


def test_a_sheet_has_a_panel_for_the_image_the_mean_and_every_head():
    item = example(heads=3)
    with_masks, without = attention_picture([item]), attention_picture([item], masks=False)
    assert with_masks.mode == "RGB"
    assert with_masks.width == without.width == 5 * 288
    assert with_masks.height > 1.7 * without.height
    assert attention_picture([item, item], masks=False).height > 1.8 * without.height


def test_items_with_other_heads_do_not_share_a_sheet():
    with pytest.raises(ValueError, match=r"same number of heads, got \[3, 4\]"):
        attention_picture([example(heads=3), example(heads=4)])
    with pytest.raises(ValueError, match=r"got \[\]"):
        attention_picture([])


def test_drawing_leaves_no_global_figures_behind():
    import sys

    attention_picture([example()])
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_a_written_sheet_comes_with_its_arrays(tmp_path):
    item = example()
    path = tmp_path / "deep" / "cat.jpg.attention.png"
    write_attention(path, item)
    with Image.open(path) as picture:
        picture.load()
    with np.load(path.with_suffix(".npz")) as arrays:
        assert np.array_equal(arrays["attention"], item.heads)
        assert np.array_equal(arrays["masks"], item.masks)
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "cat.jpg.attention.npz",
        "cat.jpg.attention.png",
    ]
