"""Whatever lies in a folder of images: decoded upright and right, or refused with a reason."""

import io
import json
import os
import pickle
import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image, ImageFile, ImageOps

from dino_infer.errors import ImageError
from dino_infer.images import to_rgb
from dino_infer.images.read import (
    ImageFailure,
    file_bytes,
    image_size,
    load_image,
    read_image,
    write_failures,
)

LOSSY = 12  # levels that JPEG, WebP and AVIF may be off on flat patches

# Four flat quarters, wider than high, so that every flip and turn of them looks different.
RED, GREEN, BLUE, YELLOW = (200, 30, 30), (30, 180, 40), (20, 40, 190), (210, 200, 30)
QUARTERS = np.zeros((32, 64, 3), dtype=np.uint8)
QUARTERS[:16, :32], QUARTERS[:16, 32:] = RED, GREEN
QUARTERS[16:, :32], QUARTERS[16:, 32:] = BLUE, YELLOW


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_close(got, expected, *, levels):
    assert got.shape == expected.shape
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= levels


def corners(image):
    """Means of the four quarters, clear of their borders."""
    height, width = image.shape[:2]
    rows = slice(2, height // 2 - 2), slice(height // 2 + 2, height - 2)
    columns = slice(2, width // 2 - 2), slice(width // 2 + 2, width - 2)
    return np.array([image[row, column].mean(axis=(0, 1)) for row in rows for column in columns])


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with_size(width: int, height: int) -> bytes:
    """A tiny file whose header promises many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + pixels + png_chunk(b"IEND", b"")


def tiff(tags: dict[int, tuple[int, int]], pixels: bytes) -> bytes:
    """A one-strip little-endian TIFF of (type, value) tags, pixels at byte 8."""
    directory = struct.pack("<H", len(tags))
    for tag, (kind, value) in sorted(tags.items()):
        directory += struct.pack("<HHII", tag, kind, 1, value)
    pixels += b"\0" * (len(pixels) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


def grey_tiff(samples: bytes, *, width: int, bits: int, photometric: int = 1) -> bytes:
    short, long = 3, 4
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 277: 1, 278: 1}
    return tiff(
        {tag: (short, value) for tag, value in tags.items()}
        | {273: (long, 8), 279: (long, len(samples))},
        samples,
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "JPEG2000", "WEBP"])
def test_lossless_formats_give_the_exact_pixels(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    got = read_image(encoded(QUARTERS, kind, **options), path="x")
    np.testing.assert_array_equal(got, QUARTERS)
    assert got.flags.c_contiguous and got.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "GIF", "MPO"])
def test_lossy_formats_give_nearly_the_pixels(kind):
    got = read_image(encoded(QUARTERS, kind), path="x")
    assert_close(corners(got), corners(QUARTERS), levels=LOSSY)


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


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "AVIF"])
def test_the_first_frame_or_page_counts(kind):
    others = [Image.new("RGB", (64, 32), colour) for colour in ("magenta", "cyan")]
    data = encoded(QUARTERS, kind, save_all=True, append_images=others)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert_close(corners(read_image(data, path="x")), corners(QUARTERS), levels=LOSSY)


TURNED = {  # what a camera stores so that the EXIF orientation shows QUARTERS upright
    1: QUARTERS,
    2: QUARTERS[:, ::-1],
    3: QUARTERS[::-1, ::-1],
    4: QUARTERS[::-1],
    5: QUARTERS.transpose(1, 0, 2),
    6: np.rot90(QUARTERS),
    7: np.rot90(QUARTERS, 2).transpose(1, 0, 2),
    8: np.rot90(QUARTERS, -1),
}
OPTIONS = {"JPEG": [{}], "PNG": [{}], "WEBP": [{}], "AVIF": [{}]}
OPTIONS["TIFF"] = [{}, {"compression": "tiff_lzw"}]


@pytest.mark.parametrize(("kind", "options"), [(k, o) for k in OPTIONS for o in OPTIONS[k]])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(kind, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(np.ascontiguousarray(TURNED[orientation]), kind, exif=exif, **options)
    assert image_size(data, "x") == (32, 64)
    got = read_image(data, path="x", min_scale_size=(32, 64))
    assert_close(corners(got), corners(QUARTERS), levels=LOSSY)


def test_an_orientation_after_the_pixels_of_a_png_counts():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(np.rot90(QUARTERS).copy(), "PNG")
    end = data.index(b"IEND") - 4
    data = data[:end] + png_chunk(b"eXIf", exif.tobytes()[6:]) + data[end:]
    assert image_size(data, "x") == (32, 64)
    np.testing.assert_array_equal(read_image(data, path="x"), QUARTERS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "JPEG2000"])
def test_the_size_needs_only_the_header(kind, monkeypatch):
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image))
    noise = np.random.default_rng(0).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    half = data if kind == "WEBP" else data[: len(data) // 2]  # WebP checks its length first
    assert image_size(half, "x") == (80, 90)
    assert not decoded


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage that is no TIFF header",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 30,
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0",  # 9
    ],
)
def test_damaged_metadata_does_not_cost_the_picture(exif):
    for kind in ("JPEG", "PNG", "WEBP"):
        data = encoded(QUARTERS, kind, exif=exif)
        assert image_size(data, "x") == (32, 64)
        assert_close(corners(read_image(data, path="x")), corners(QUARTERS), levels=LOSSY)


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_extreme_shapes_are_read(kind, size):
    assert read_image(encoded(Image.new("RGB", size), kind), path="x").shape == (*size[::-1], 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "JPEG2000"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7, 0.97])
def test_truncated_files_are_corrupt(kind, kept):
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    cut = data[: max(12, int(len(data) * kept))]
    with pytest.raises(ImageError) as caught:
        read_image(cut, path="cut.x")
    assert caught.value.kind == "corrupt"
    assert caught.value.path == "cut.x"


def test_a_jpeg_whose_end_was_zeroed_is_corrupt():
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    data = encoded(noise, "JPEG")
    with pytest.raises(ImageError, match="overwritten with zeros"):
        read_image(data[:1500] + bytes(len(data) - 1500), path="x")
    assert read_image(data + bytes(512), path="x").shape == (48, 48, 3)  # padding is harmless


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"", "empty", "0 bytes"),
        (b"<!DOCTYPE html><html>", "unsupported", "begins with b'<!DOCTYPE html><'"),
        (b"just some text, named photo.jpg", "unsupported", "expected an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported", "%!PS-Adobe"),
        (bytes(100), "unsupported", "begins with"),
        (b"P", "unsupported", "begins with"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "unsupported", "HEIC"),
        (b"\xff\xd8\xff\xd9 and no more", "corrupt", "a damaged JPEG header"),
    ],
)
def test_what_is_no_image_is_named(data, kind, reason):
    with pytest.raises(ImageError) as caught:
        read_image(data, path="x")
    assert (caught.value.kind, reason in caught.value.reason) == (kind, True), caught.value.reason
    with pytest.raises(ImageError):
        image_size(data, "x")


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


def test_a_raised_limit_also_lifts_the_one_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    with pytest.raises(ImageError) as caught:
        # The bytes behind its end are there because so small a file would be refused as a bomb.
        png = png_with_size(14_000, 14_000) + bytes(2 << 20)
        read_image(png, path="x", max_pixels=10**9)
    assert caught.value.kind == "corrupt"  # too few pixels in it, but not too large


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


def test_a_size_below_one_is_a_wrong_argument():
    with pytest.raises(ValueError, match=r"min_scale_size must be at least \(1, 1\), got \(0, 5\)"):
        read_image(encoded(QUARTERS, "JPEG"), path="x", min_scale_size=(0, 5))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "TIFF", "BMP", "PPM"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.floats(0, 1), junk=st.binary(min_size=1, max_size=8), cut=st.floats(0, 1))
def test_random_damage_gives_an_image_or_a_typed_error(kind, place, junk, cut):
    data = bytearray(encoded(QUARTERS, kind))
    start = int(place * len(data))
    data[start : start + len(junk)] = junk
    for damaged in (bytes(data), bytes(data[: int(cut * len(data))])):
        for read in (
            lambda d: read_image(d, path="x", max_pixels=10**6),
            lambda d: image_size(d, "x"),
        ):
            try:
                read(damaged)
            except ImageError as error:
                assert error.reason and "\n" not in str(error)


def test_threads_decode_without_warnings_or_mixing():
    good, bad = encoded(QUARTERS, "JPEG", exif=b"Exif\0\0broken"), png_with_size(15_000, 15_000)
    problems = []

    def work():
        for _ in range(20):
            try:
                assert read_image(good, path="x").shape == (32, 64, 3)
                with pytest.raises(ImageError):
                    read_image(bad, path="x")
            except BaseException as error:
                problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_files_that_cannot_be_read_are_typed(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = {
        "absent.jpg": ("missing", "no such file"),
        "link.jpg": ("missing", "no such file"),
        "folder.jpg": ("missing", "not a regular file"),
        "pipe.jpg": ("missing", "not a regular file"),
        "empty.jpg": ("empty", "0 bytes"),
        "empty.jpg/below.jpg": ("missing", "no such file"),
        "nul\0.jpg": ("missing", "no such file"),
        "x" * 300 + ".jpg": ("unreadable", "too long"),
    }
    for name, (kind, reason) in expected.items():
        with pytest.raises(ImageError) as caught:
            file_bytes(str(tmp_path / name), name=name)
        error = caught.value
        assert (error.path, error.kind) == (name, kind)
        assert reason in error.reason


def test_a_huge_file_is_refused_unread(tmp_path):
    with open(tmp_path / "scan.tif", "wb") as file:
        file.truncate(3 << 30)  # sparse: takes no disk
    with pytest.raises(ImageError, match="at most 2147483648 bytes, got 3221225472") as caught:
        load_image(tmp_path / "scan.tif")
    assert caught.value.kind == "too_large"


def test_the_bound_on_bytes_is_the_callers(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(bytes(100))
    assert file_bytes(path, max_file_bytes=100) == bytes(100)
    with pytest.raises(ImageError, match="expected at most 99 bytes, got 100") as caught:
        file_bytes(path, name="a", max_file_bytes=99)
    assert (caught.value.path, caught.value.kind) == ("a", "too_large")


def test_an_image_file_is_loaded(tmp_path):
    path = tmp_path / "a picture ü.png"
    path.write_bytes(encoded(QUARTERS))
    np.testing.assert_array_equal(load_image(path), QUARTERS)
    path.write_bytes(encoded(QUARTERS)[:50])
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert caught.value.path == str(path)


def test_failures_are_written_whole_and_come_back(tmp_path):
    odd = os.fsdecode(b"caf\xe9\nnewline.jpg")
    failures = [
        ImageFailure.of(ImageError(odd, "corrupt", "cut short")),
        ImageFailure(path="b.png", kind="empty", reason="the file has 0 bytes"),
    ]
    write_failures(tmp_path / "failed.jsonl", iter(failures))
    lines = (tmp_path / "failed.jsonl").read_text().splitlines()
    assert [ImageFailure(**json.loads(line)) for line in lines] == failures
    write_failures(tmp_path / "failed.jsonl", [])
    assert (tmp_path / "failed.jsonl").read_text() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["failed.jsonl"]


def test_an_image_error_crosses_process_borders():
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "corrupt", "cut")))
    assert (error.path, error.kind, error.reason) == ("a.jpg", "corrupt", "cut")
