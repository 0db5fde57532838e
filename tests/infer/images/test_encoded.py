"""Files of every format are decoded upright, or refused with a reason."""

import io
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image, ImageFile

from dino_infer.errors import ImageError
from dino_infer.images.read import (
    image_size,
    read_image,
)
from tests.infer.images.encoding import (
    LOSSY,
    QUARTERS,
    TURNED,
    assert_close,
    corners,
    encoded,
    png_chunk,
    png_with_size,
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


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG", "AVIF"])
def test_the_first_frame_or_page_counts(kind):
    others = [Image.new("RGB", (64, 32), colour) for colour in ("magenta", "cyan")]
    data = encoded(QUARTERS, kind, save_all=True, append_images=others)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert_close(corners(read_image(data, path="x")), corners(QUARTERS), levels=LOSSY)


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


def test_a_raised_limit_also_lifts_the_one_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    with pytest.raises(ImageError) as caught:
        # The bytes behind its end are there because so small a file would be refused as a bomb.
        png = png_with_size(14_000, 14_000) + bytes(2 << 20)
        read_image(png, path="x", max_pixels=10**9)
    assert caught.value.kind == "corrupt"  # too few pixels in it, but not too large


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
