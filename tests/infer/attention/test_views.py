"""Pixels of an image and patches of the network find each other."""

import pytest

from dino_infer.attention.grids import whole_image
from dino_infer.attention.views import view_of
from dino_infer.images.preprocess import Preprocess

PIXEL = 1.0  # the resized side is truncated to whole pixels


def test_a_whole_image_is_covered_from_its_corner_on():
    preprocess = whole_image(Preprocess(), size=64, patch_size=8)
    view = view_of(300, 451, preprocess=preprocess, patch_size=8)
    assert (view.rows, view.columns, view.left, view.top) == (8, 12, 0, 0)
    assert view.box(0, 0, 8, 12) == (0, 0, 451, 300)
    assert view.box(4, 0, 5, 1) == (0, 150, 38, 188)


@pytest.mark.parametrize(
    ("pixel", "patch"),
    [((0, 0), (0, 0)), ((450, 299), (7, 11)), ((40, 0), (0, 1)), ((37, 38), (1, 0))],
)
def test_a_pixel_finds_its_patch(pixel, patch):
    preprocess = whole_image(Preprocess(), size=64, patch_size=8)
    view = view_of(300, 451, preprocess=preprocess, patch_size=8)
    assert view.patch_at(*pixel) == patch
    x0, y0, x1, y1 = view.box(*patch, patch[0] + 1, patch[1] + 1)
    assert x0 - PIXEL <= pixel[0] <= x1 + PIXEL and y0 - PIXEL <= pixel[1] <= y1 + PIXEL


def test_a_central_crop_is_found_in_the_middle_of_the_image():
    view = view_of(512, 1024, preprocess=Preprocess(size=224), patch_size=16)
    assert (view.rows, view.columns) == (14, 14)
    assert view.box(0, 0, 14, 14) == (288, 32, 736, 480)
    assert view.patch_at(288, 32) == (0, 0) and view.patch_at(735, 479) == (13, 13)


def test_the_strip_that_makes_no_patch_belongs_to_the_last_one():
    preprocess = whole_image(Preprocess(), size=36, patch_size=8)
    view = view_of(36, 46, preprocess=preprocess, patch_size=8)
    assert (view.rows, view.columns) == (4, 5)
    assert view.patch_at(45, 35) == (3, 4)


@pytest.mark.parametrize("pixel", [(-1, 5), (5, -0.5), (500, 5), (5, 400)])
def test_a_pixel_outside_is_named_with_what_was_seen(pixel):
    preprocess = whole_image(Preprocess(), size=64, patch_size=8)
    view = view_of(300, 451, preprocess=preprocess, patch_size=8)
    match = rf"x from 0 to 450 and y from 0 to 299, got x = {pixel[0]:g}, y = {pixel[1]:g}"
    with pytest.raises(ValueError, match=match):
        view.patch_at(*pixel)
