"""Bombs are refused by their headers, and honest files are not."""

import struct

import numpy as np
import pytest
from PIL import Image

from dino_infer.errors import ImageError
from dino_infer.images import limits
from dino_infer.images.read import (
    read_image,
)
from tests.infer.images import odd_files
from tests.infer.images.encoding import QUARTERS, encoded, png_with_size
from tests.infer.images.odd_files import (
    as_file,
    grey_png,
    png_with,
    tiff_with_overlapping_tags,
)


def test_decompression_bombs_are_refused_before_decoding():
    for bomb in (png_with_size(60_000, 60_000), encoded(Image.new("1", (15_000, 15_000)))):
        assert len(bomb) < 40_000
        with pytest.raises(ImageError, match="expected at most 120000000 pixels") as caught:
            read_image(bomb, path="bomb")
        assert caught.value.kind == "too_large"


def test_the_pixel_limit_is_the_callers():
    data = encoded(QUARTERS)
    assert read_image(data, path="x", max_pixels=64 * 32).shape == (32, 64, 3)
    with pytest.raises(ImageError, match="at most 2047 pixels, its header says 64 x 32"):
        read_image(data, path="x", max_pixels=64 * 32 - 1)


def test_a_film_behind_a_photo_holds_no_scans():
    film = b"\xff\xda\0\x08" * (2 * limits.MAX_SCANS)
    got = read_image(as_file("JPEG") + film, path="x")
    assert got.shape == (odd_files.HEIGHT, odd_files.WIDTH, 3)


def test_a_thumbnail_before_the_picture_holds_no_scans_of_it():
    jpeg = as_file("JPEG")
    segment = b"\xff\xe2" + struct.pack(">H", 60_002) + b"\xff\xda\0\x08" * 15_000
    assert read_image(jpeg[:2] + segment + jpeg[2:], path="x").shape[2] == 3


@pytest.mark.parametrize("scans", [limits.MAX_SCANS - 20, limits.MAX_SCANS + 1])
def test_scans_are_counted_to_the_limit(scans):
    jpeg = odd_files.jpeg_of_many_scans(scans)
    if scans > limits.MAX_SCANS:
        with pytest.raises(ImageError, match="expected at most 200 scans, got 2"):
            read_image(jpeg, path="x")
    else:
        assert read_image(jpeg, path="x").shape[2] == 3


def test_a_large_plain_photo_is_no_bomb():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (50, 60, 3), dtype=np.uint8))
    photo = as_file("JPEG", image=small.resize((5000, 4000)), quality=60)
    assert 40 * len(photo) < 5000 * 4000 * 3
    assert read_image(photo, path="x", min_scale_size=(100, 100)).shape == (500, 625, 3)


def test_a_bomb_says_what_to_do():
    with pytest.raises(ImageError, match="would become 10000 x 10000 pixels: .* Save it smaller"):
        read_image(grey_png(10_000, 10_000), path="x")


@pytest.mark.parametrize("mode", ["1", "P"])
def test_scanned_pages_of_text_are_no_bombs(mode):
    # A4 at 600 dpi with some thousand specks for letters, in one bit a pixel.
    page = np.full((7000, 5000), 255, dtype=np.uint8)
    rows, columns = np.random.default_rng(0).integers(0, 5000, (2, 8000))
    page[rows, columns] = 0
    image = Image.fromarray(page).convert(mode, colors=2, palette=Image.Palette.ADAPTIVE)
    data = as_file("PNG", image=image, bits=1)
    assert page.size > limits.MAX_EXPANSION * len(data)  # counted as bytes, it would be one
    assert read_image(data, path="x").shape == (7000, 5000, 3)


@pytest.mark.parametrize("magic", [b"II*\0", b"II+\0", b"MM\0*", b"MM\0+"])
def test_directories_that_lead_nowhere_claim_nothing(magic):
    for rest in (b"", b"\xff" * 4, b"\xff" * 30, bytes(4), bytes(30), b"\x08" * 30):
        limits.check_metadata(magic + rest, "x")


@pytest.mark.parametrize("order", "<>")
def test_overlapping_tags_are_found_in_every_layout(order):
    size = 100_000
    classic = b"".join(struct.pack(order + "HHII", 9, 7, size, 0) for _ in range(1000))
    big = b"".join(struct.pack(order + "HHQQ", 9, 7, size, 0) for _ in range(1000))
    mark = b"II" if order == "<" else b"MM"
    files = [
        mark + struct.pack(order + "HIH", 42, 8, 1000) + classic + bytes(size),
        mark + struct.pack(order + "HHHQQ", 43, 8, 0, 16, 1000) + big + bytes(size),
    ]
    for file in files:
        with pytest.raises(ImageError, match="they overlap") as caught:
            limits.check_metadata(file, "x")
        assert caught.value.kind == "corrupt"


def test_honest_metadata_passes():
    blob = tiff_with_overlapping_tags(20, 50_000)  # a maker's notes, twice told
    assert read_image(png_with(b"eXIf", blob), path="x").shape == (1, 1, 3)
    assert read_image(blob, path="x").shape == (1, 1, 3)
