"""JPEGs are decoded as by Pillow, and where less suffices, smaller but never too small."""

import io

import numpy as np
import pytest
from PIL import Image

from dino_infer.images import turbo
from dino_infer.images.read import read_image
from tests.infer.images.encoding import LOSSY, QUARTERS, RED, TURNED, assert_close, corners, encoded


@pytest.mark.parametrize("wanted", [(100, 200), (101, 150), (51, 40), (400, 800), (1, 1)])
def test_a_scaled_jpeg_is_never_below_the_size_that_suffices(wanted):
    data = encoded(Image.fromarray(QUARTERS).resize((803, 401)), "JPEG")
    full, scaled = read_image(data, path="x"), read_image(data, path="x", min_scale_size=wanted)
    height, width = scaled.shape[:2]
    assert height >= wanted[0] and width >= wanted[1]
    # The next smaller of libjpeg's scales would have been too small.
    assert height == 51 or height // 2 < wanted[0] or width // 2 < wanted[1]
    assert_close(corners(scaled), corners(full), levels=LOSSY)


def test_the_scale_of_a_turned_jpeg_is_chosen_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("RGB", (800, 100))  # upright: 800 high, 100 wide
    data = encoded(stored, "JPEG", exif=exif)
    assert read_image(data, path="x", min_scale_size=(200, 25)).shape == (200, 25, 3)
    assert read_image(data, path="x", min_scale_size=(100, 100)).shape == (800, 100, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_scaled_jpeg_comes_out_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation]))
    data = encoded(stored.resize((stored.width * 12, stored.height * 12)), "JPEG", exif=exif)
    got = read_image(data, path="x", min_scale_size=(90, 100))
    assert got.shape == (96, 192, 3)  # a quarter of 384 x 768
    assert got.flags.c_contiguous and got.flags.writeable
    assert_close(corners(got), corners(QUARTERS), levels=LOSSY)


def test_the_smallest_jpegs_survive_scaling():
    for width, height in ((1, 1), (1, 9), (7, 1), (8, 8), (9, 17)):
        data = encoded(Image.new("RGB", (width, height), RED), "JPEG")
        for wanted in ((1, 1), (1, 5), (100, 100)):
            got = read_image(data, path="x", min_scale_size=wanted)
            assert got.shape[0] >= min(wanted[0], height) and got.shape[1] >= min(wanted[1], width)
            assert_close(got[0, 0], np.array(RED), levels=LOSSY)


NOISE = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)


@pytest.mark.parametrize("picture", [NOISE, NOISE[..., 0]], ids=["colours", "greys"])
def test_plain_jpegs_are_the_pixels_of_pillow(picture):
    data = encoded(picture, "JPEG", quality=90)
    size = turbo.plain_size(data)
    assert size == (37, 53)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(turbo.pixels(data, size, min_scale_size=None), expected)
    placed = np.zeros(expected.size + 5, dtype=np.uint8)
    assert np.shares_memory(turbo.pixels(data, size, min_scale_size=None, out=placed), placed)
    np.testing.assert_array_equal(placed[:-5], expected.ravel())


def test_files_that_are_no_plain_jpeg_are_left_to_pillow(monkeypatch):
    turned = Image.Exif()
    turned[0x0112] = 6
    plain = encoded(NOISE, "JPEG")
    for other in (
        encoded(NOISE, "PNG"),
        encoded(NOISE, "JPEG", progressive=True),
        encoded(NOISE, "JPEG", exif=turned),
        encoded(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
        plain[:100],
        b"\xff\xd8",
        b"",
    ):
        assert turbo.plain_size(other) is None
    assert turbo.pixels(plain[: len(plain) // 2], (37, 53), min_scale_size=None) is None
    monkeypatch.setattr(turbo, "_simplejpeg", lambda: None)
    assert turbo.plain_size(plain) is None and not turbo.is_fast()
