"""Maps, masks, boxes and patches over a picture: right places, right colours."""

import numpy as np
import pytest

from dino_infer.attention.boxes import Box
from dino_infer.drawing.overlays import (
    OUTLINE,
    QUERY,
    TINT,
    box_overlay,
    head_colors,
    head_palette,
    heat_overlay,
    heatmap,
    mask_overlay,
    mosaic,
    pca_colors,
    similarity_overlay,
)

ROUNDING = 1  # levels of 255


def noise(height=32, width=48):
    return np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def test_a_heatmap_runs_from_dark_to_bright():
    colors = heatmap(np.array([[0.0, 0.5, 1.0]])).astype(int).sum(axis=-1)[0]
    assert colors[0] < colors[1] < colors[2]


def test_a_constant_map_is_drawn_dark_and_without_a_warning():
    assert heatmap(np.full((2, 2), 0.25)).max() < 16


def test_a_scale_makes_two_maps_comparable():
    low, high = (heatmap(np.array([[0.0, top]]), scale=(0, 1)) for top in (0.5, 1.0))
    assert np.array_equal(low[0, 0], high[0, 0])
    assert low[0, 1].sum() < high[0, 1].sum()
    assert np.array_equal(heatmap(np.array([[5.0]]), scale=(0, 1))[0, 0], high[0, 1])


def test_an_unknown_colour_map_gets_the_nearest_names():
    with pytest.raises(ValueError, match="no colour map named 'infernoo'; nearest: inferno"):
        heatmap(np.zeros((2, 2)), colormap="infernoo")


def test_a_heat_overlay_goes_from_the_picture_to_the_map():
    picture, values = noise(), np.random.default_rng(1).random((4, 6))
    assert np.array_equal(heat_overlay(picture, values, opacity=0.0), picture)
    alone = heat_overlay(picture, values, opacity=1.0, smooth=False)
    assert np.array_equal(alone[::8, ::8], heatmap(values))
    assert np.array_equal(alone[7::8, 7::8], heatmap(values))
    with pytest.raises(ValueError, match=r"opacity must lie in \[0, 1\], got 1.5"):
        heat_overlay(picture, values, opacity=1.5)


def test_a_smooth_overlay_has_the_values_between_those_of_the_patches():
    values = np.array([[0.0, 1.0]])
    row = heat_overlay(np.zeros((16, 64, 3), np.uint8), values, opacity=1.0)[8].astype(int)
    brightness = row.sum(axis=-1)
    assert (np.diff(brightness) >= 0).all() and len(np.unique(brightness)) > 10


def test_an_overlay_has_the_resolution_of_its_picture():
    values = np.random.default_rng(1).random((4, 6))
    for picture in (noise(32, 48), noise(33, 50), noise(200, 300)):
        assert heat_overlay(picture, values).shape == picture.shape
        assert mask_overlay(picture, values > 0.5).shape == picture.shape
        assert head_colors(picture, values[None]).shape == picture.shape


def test_a_mask_tints_inside_and_greys_outside():
    picture = np.full((16, 16, 3), (0, 0, 200), dtype=np.uint8)
    mask = np.array([[True, False], [False, False]])
    mixed = mask_overlay(picture, mask)
    red, green, blue = mixed[2, 2]
    assert red > green and red > 100 and blue > 50
    assert len(set(mixed[14, 14])) == 1
    assert tuple(mixed[7, 3]) == OUTLINE  # on the inner side
    assert tuple(mixed[0, 0]) != OUTLINE  # but not along the frame


def test_every_head_has_its_colour_where_it_looks():
    heads = np.zeros((3, 4, 6))
    heads[0, 0, 0] = heads[1, 0, 5] = heads[2, 3, 3] = 1
    picture = np.full((32, 48, 3), 200, dtype=np.uint8)
    colors = head_colors(picture, heads, smooth=False).astype(float)
    for pixel, hue in zip(((4, 4), (4, 44), (28, 28)), head_palette(3), strict=True):
        got = colors[pixel] - colors[pixel].min()
        wanted = hue - hue.min().astype(float)
        assert np.argsort(got).tolist() == np.argsort(wanted).tolist()
        assert got.max() > 100
    assert (colors[16, 16] == 50).all()  # the photo at a quarter of its brightness


def test_the_stronger_head_shows_where_two_overlap():
    heads = np.array([[[0.9, 0.1]], [[0.4, 0.6]]])
    assert len(head_palette(2000)) == 2000
    red, cyan = head_palette(2).astype(float)
    left = head_colors(np.full((8, 16, 3), 255, np.uint8), heads, mass=1.0, smooth=False)[4, 4]
    assert np.abs(left - red).sum() < np.abs(left - cyan).sum()


def test_a_higher_mass_colours_more_of_the_picture():
    heads = np.random.default_rng(0).random((1, 8, 8))
    picture = np.full((64, 64, 3), 255, np.uint8)
    colored = [
        np.ptp(head_colors(picture, heads, mass=mass, smooth=False), axis=-1) > 0
        for mass in (0.3, 0.6, 0.9)
    ]
    assert colored[0].sum() < colored[1].sum() < colored[2].sum()


def test_boxes_are_drawn_inside_their_edges():
    drawn = box_overlay(np.zeros((20, 30, 3), np.uint8), [Box(3, 4, 13, 16, mass=0.5)])
    rows, columns = np.nonzero((drawn == np.array(TINT)).all(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 15, 3, 12)
    assert not drawn[8:12, 6:10].any()


def test_pictures_side_by_side_keep_their_order():
    pictures = [np.full((10, 12, 3), level, np.uint8) for level in (50, 100, 150)]
    sheet = mosaic(pictures)
    assert sheet.shape == (24, 28, 3)
    assert (sheet[0, 0, 0], sheet[0, 27, 0], sheet[23, 0, 0]) == (50, 100, 150)
    assert not sheet[14:, 16:].any()
    assert np.array_equal(mosaic(pictures[:1]), pictures[0])


def test_the_mean_patch_is_grey_and_each_component_a_channel():
    scores = np.zeros((1, 4, 3))
    scores[0, 1, 0], scores[0, 2, 1], scores[0, 3, 2] = 2, -4, 1
    colors = pca_colors(scores, np.array([1.0, 4.0, 1.0]), height=1, width=4, smooth=False)
    wanted = [[128, 128, 128], [255, 128, 128], [128, 0, 128], [128, 128, 191]]
    assert np.abs(colors[0].astype(int) - wanted).max() <= ROUNDING


def test_the_background_of_a_foreground_is_black():
    scores = np.random.default_rng(0).normal(size=(2, 2, 3))
    inside = np.array([[True, False], [False, False]])
    colors = pca_colors(scores, np.ones(3), height=16, width=16, foreground=inside, smooth=False)
    assert colors[:8, :8].any() and not colors[8:].any() and not colors[:, 8:].any()


def test_a_component_without_variance_gives_no_warning():
    colors = pca_colors(np.zeros((2, 2, 3)), np.zeros(3), height=4, width=4)
    assert (colors == 128).all()


def test_the_clicked_patch_and_its_matches_are_framed():
    similarity = np.linspace(-1, 1, 24).reshape(4, 6)
    plain = similarity_overlay(noise(), similarity)
    drawn = similarity_overlay(noise(), similarity, query=(1, 1), matches=[(3, 4)])
    changed = (drawn != plain).any(axis=-1)
    assert (drawn[changed] == np.array(QUERY)).all(axis=-1).any()
    assert (drawn[changed] == np.array(OUTLINE)).all(axis=-1).any()
    assert not changed[8:16, 8:16].any() and not changed[24:, 32:40].any()  # the patches
