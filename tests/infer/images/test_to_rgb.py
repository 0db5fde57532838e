"""Pictures of every mode become the RGB that they show."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dino_infer.images import to_rgb
from dino_infer.images.read import (
    read_image,
)
from tests.infer.images.encoding import (
    LOSSY,
    QUARTERS,
    assert_close,
    corners,
    encoded,
    grey_tiff,
    png_chunk,
)

MODES = {
    "TIFF": ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr"],
    "PNG": ["1", "L", "LA", "P", "RGBA"],
    "JPEG": ["L", "CMYK", "YCbCr"],
    "JPEG2000": ["L", "LA", "RGBA", "CMYK", "YCbCr"],
    "GIF": ["1", "L", "P"],
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind in MODES for mode in MODES[kind]])
def test_every_mode_becomes_the_rgb_that_it_shows(kind, mode):
    expected = QUARTERS
    if mode in ("1", "L", "LA"):
        expected = np.zeros_like(QUARTERS)
        expected[:, 32:] = 255
    image = Image.fromarray(expected)
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    options = {"compression": "tiff_lzw"} if (kind, mode) == ("TIFF", "YCbCr") else {}
    got = read_image(encoded(image, kind, **options), path="x")
    assert_close(corners(got), corners(expected), levels=LOSSY)


def test_lab_is_converted_by_its_definition():
    # L* = 54.29, a* = 80.81, b* = 69.89 (D50) is pure sRGB red; a* and b* are kept plus 128.
    lab = Image.merge("LAB", [Image.new("L", (4, 4), v) for v in (138, 209, 198)])
    got = read_image(encoded(lab, "TIFF"), path="x")
    assert_close(got[0, 0], np.array([255, 0, 0]), levels=6)


def test_inverted_cmyk_of_adobe_is_not_a_negative():
    jpeg = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in jpeg
    assert_close(read_image(jpeg, path="x")[8, 8], np.array([255, 0, 0]), levels=LOSSY)


def test_ycck_of_adobe_is_recognised():
    # The inverted inks of red, (255, 0, 0, 255), go through the luma transform as if C, M, Y were
    # inverted R, G, B: the stored luma and chroma are those of cyan. Pillow inverts as it writes.
    given = [255 - stored for stored in (179, 171, 1, 255)]
    jpeg = encoded(Image.merge("CMYK", [Image.new("L", (16, 16), v) for v in given]), "JPEG")
    transform = jpeg.index(b"Adobe") + 11
    jpeg = jpeg[:transform] + b"\x02" + jpeg[transform + 1 :]
    assert_close(read_image(jpeg, path="x")[8, 8], np.array([255, 0, 0]), levels=LOSSY)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000", "PPM"])
def test_sixteen_bit_greys_are_scaled_by_their_full_range(kind):
    grey = np.linspace(0, 65_535, 256 * 16).reshape(16, 256).astype(np.uint16)
    got = read_image(encoded(grey, kind), path="x")
    np.testing.assert_array_equal(got, np.repeat(np.rint(grey / 257)[..., None], 3, axis=2))


def test_sixteen_bit_colours_are_scaled():
    row = b"\0" + struct.pack(">6H", 65_535, 32_768, 0, 257, 0, 65_535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    np.testing.assert_array_equal(read_image(png, path="x"), [[[255, 128, 0], [1, 0, 255]]])


def test_big_endian_and_dark_sixteen_bit_images_keep_the_same_scale():
    big = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 514, 65_535))
    assert read_image(encoded(big, "TIFF"), path="x")[0, :, 0].tolist() == [2, 255]
    dark = np.full((2, 2), 200, dtype=np.uint16)
    assert read_image(encoded(dark, "PNG"), path="x").max() == 1


def test_dark_deep_ppm_images_keep_the_same_scale():
    deep = b"P5 2 1 65535\n" + struct.pack(">2H", 0, 255)
    assert read_image(deep, path="x")[0, :, 0].tolist() == [0, 1]


def test_twelve_bit_tiffs_reach_white():
    packed = bytes([0x00, 0x0F, 0xFF])  # samples 0x000 and 0xFFF
    got = read_image(grey_tiff(packed, width=2, bits=12), path="x")
    assert got[0, :, 0].tolist() == [0, 255]


def test_sixteen_bit_tiffs_whose_white_is_zero_are_no_negatives():
    samples = struct.pack("<2H", 0, 65_535)
    got = read_image(grey_tiff(samples, width=2, bits=16, photometric=0), path="x")
    assert got[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 128, 255], [0, 128, 255]),
        ([0, 300, 65_535], [0, 1, 255]),
        ([-1000, 0, 1000], [0, 128, 255]),
        ([5, 70_000, 139_995], [0, 128, 255]),
        ([70_000, 70_000, 70_000], [0, 0, 0]),
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_32_bit_integers_are_scaled_by_the_range_they_use(values, expected):
    data = encoded(np.array([values], dtype=np.int32), "TIFF")
    assert read_image(data, path="x")[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 128.4, 255], [0, 128, 255]),
        ([0, 257, 65_535], [0, 1, 255]),
        ([-1, 0, 1], [0, 128, 255]),
        ([np.nan, 0.2, np.inf], [51, 51, 51]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([-3e38, 0, 3e38], [0, 128, 255]),
        ([1e38, 1e38, 1e38], [0, 0, 0]),
    ],
)
def test_floats_are_scaled_by_the_range_they_use(values, expected):
    data = encoded(np.array([values], dtype=np.float32), "TIFF")
    assert read_image(data, path="x")[0, :, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "GIF", "TIFF"])
def test_transparent_pixels_are_laid_on_white(kind):
    rgba = np.dstack([QUARTERS, np.full((32, 64), 255, dtype=np.uint8)])
    rgba[:, :32, 3] = 0
    got = read_image(encoded(rgba, kind), path="x")
    expected = QUARTERS.copy()
    expected[:, :32] = 255
    assert_close(corners(got), corners(expected), levels=LOSSY)


def test_half_transparent_pixels_are_blended():
    grey_alpha = np.full((4, 4, 2), (100, 51), dtype=np.uint8)
    assert (read_image(encoded(Image.fromarray(grey_alpha, "LA")), path="x") == 224).all()


def palette_image(index: int) -> Image.Image:
    image = Image.new("P", (2, 2), index)
    image.putpalette([0, 0, 0, 50, 60, 70, 80, 90, 100])
    return image


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (Image.new("RGB", (2, 2), (10, 20, 30)), (10, 20, 30)),
        (Image.new("L", (2, 2), 7), 7),
        (palette_image(2), 2),
        (palette_image(1), b"\xff\x00"),  # an alpha for each palette entry
    ],
)
def test_transparent_colours_of_png_are_laid_on_white(image, transparency):
    data = encoded(image, transparency=transparency)
    assert (read_image(data, path="x") == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "F", "LAB"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_join_into_the_whole_picture(mode, orientation, monkeypatch):
    rng = np.random.default_rng(0)
    if mode in ("I;16", "F"):
        kind = np.uint16 if mode == "I;16" else np.float32
        image = Image.fromarray(rng.integers(0, 60_000, (23, 17)).astype(kind))
    elif mode == "LAB":
        image = Image.frombytes("LAB", (17, 23), rng.bytes(17 * 23 * 3))
    else:
        image = Image.fromarray(rng.integers(0, 255, (23, 17, 3), dtype=np.uint8)).convert(mode)
    stored = to_rgb.rgb(image)
    assert stored.shape == (23, 17, 3) and stored.std() > 10
    monkeypatch.setattr(to_rgb, "_BAND_PIXELS", 17 * 5)
    upright = to_rgb.rgb(image, orientation=orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = Image.fromarray(stored)
    turned.info["exif"] = exif.tobytes()
    np.testing.assert_array_equal(upright, np.asarray(ImageOps.exif_transpose(turned)))
