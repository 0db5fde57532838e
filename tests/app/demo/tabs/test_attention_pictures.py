import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from dino_app.demo.models import Models
from dino_app.demo.tabs.attention import write_npz, write_png
from dino_app.demo.tabs.attention_pictures import (
    COLORS,
    MAX,
    MEAN,
    STYLES,
    Drawing,
    boxes,
    has_outline,
    head_gallery,
    head_names,
    layer_heads,
    mask_text,
    overlay,
)  # fmt: skip
from dino_app.demo.tabs.compare import mean_attention, own_colors
from dino_infer.attention.maps import grid_masks, mass_mask
from dino_infer.drawing.overlays import TINT, heat_overlay, mask_overlay
from tests.app.demo.tiny import weights_file


@pytest.fixture(scope="module")
def look(tmp_path_factory):
    models = Models([weights_file(tmp_path_factory.mktemp("weights"))], "cpu")
    return models.model(models.names[0]).look(data.chelsea(), size=64)


def test_a_heat_map_is_the_librarys_with_the_outline_of_the_mask(look):
    drawing = Drawing(head="Head 2", layer=3, opacity=0.5, colormap="viridis")
    values = look.attention[3, 1]
    plain = heat_overlay(look.shown, values, opacity=0.5, colormap="viridis")
    drawn = overlay(look, drawing)
    outline = (drawn != plain).any(axis=-1)
    assert (drawn[outline] == 255).all() and outline.mean() < 0.2
    few = has_outline(grid_masks(values, drawing.mass))
    assert outline.any() == few and ("Too many" in mask_text(look, drawing)) != few


@pytest.mark.parametrize(("pieces", "expected"), [(0, False), (1, True), (5, True), (6, False)])
def test_an_outline_is_drawn_around_one_to_five_pieces(pieces, expected):
    mask = np.zeros((3, 13), dtype=bool)
    mask[1, : 2 * pieces : 2] = True
    assert has_outline(mask) == expected


def test_a_mask_holds_the_wanted_share(look):

    drawing = Drawing(style="Mask", head=MAX, mass=0.3)
    values = look.attention[-1].max(axis=0)
    mask = mass_mask(torch.from_numpy(values).flatten(), mass=0.3).numpy().reshape(values.shape)
    assert np.array_equal(overlay(look, drawing), mask_overlay(look.shown, mask, opacity=0.6))
    assert f"30% of its attention is on {mask.mean():.0%}" in mask_text(look, drawing)


def test_boxes_are_in_pixels_of_the_upload_and_drawn_in_those_of_the_page(look):
    drawing = Drawing(mass=0.2, boxes=True, style="Mask", opacity=0)
    found = boxes(look, drawing)
    assert 0 < max(box.x1 for box in found) <= 451 and max(box.y1 for box in found) <= 300
    drawn = overlay(look, drawing)
    best = found[0]
    x, y = round(best.x0 * 722 / 451) + 1, round((best.y0 + best.y1) / 2 * 480 / 300)
    assert (drawn[y, x - 2 : x + 3] == TINT).all(axis=-1).any()


def test_the_gallery_has_every_head_and_both_summaries(look):
    names = [name for _, name in head_gallery(look, Drawing())]
    assert names == [MEAN, MAX, "Head 1", "Head 2", "Head 3", "Head 4", COLORS]
    assert names[:-1] == head_names(4)
    pictures = [picture for picture, _ in head_gallery(look, Drawing(style="Mask"))]
    assert all(min(picture.shape[:2]) == 180 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_depends_on_opacity_and_mass(look, style):
    drawing = Drawing(style=style)
    assert overlay(look, drawing).shape == look.shown.shape
    for change in [{"mass": 0.2}, {"opacity": 0.1}]:
        changed = overlay(look, dataclasses.replace(drawing, **change))
        assert not np.array_equal(changed, overlay(look, drawing))


def test_a_block_that_a_smaller_network_lacks_is_its_last_one(look):
    heads = layer_heads(look, Drawing(layer=11))
    assert np.array_equal(heads, look.attention[-1])


def test_an_unknown_head_is_named(look):
    with pytest.raises(ValueError, match=r"head must be one of \['Mean'.*got 'Head 9'"):
        overlay(look, Drawing(head="Head 9"))


def test_downloads_hold_what_is_shown(look, tmp_path):
    drawing = Drawing(head="Head 1", mass=0.4)
    png, npz = write_png(look, drawing, tmp_path), write_npz(look, drawing, tmp_path)
    with Image.open(png) as picture:
        assert np.array_equal(np.asarray(picture), overlay(look, drawing))
    with np.load(npz) as arrays:
        assert np.array_equal(arrays["attention"], look.attention[-1])
        kept = (arrays["attention"] * arrays["masks"]).sum(axis=(1, 2))
        assert (kept >= 0.4 * arrays["attention"].sum(axis=(1, 2)) - 1e-6).all()
        assert np.allclose(arrays["boxes"], [list(box) for box in boxes(look, drawing)])


def test_compared_pictures_are_as_large_as_what_is_shown(look):
    assert mean_attention(look).shape == own_colors(look).shape == look.shown.shape
