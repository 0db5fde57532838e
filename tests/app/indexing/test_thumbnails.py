"""Thumbnails are small, upright, and hold nothing but pixels."""

import io

import pytest
from PIL import Image

from dino_app.indexing.thumbnails import thumbnail
from dino_infer.errors import ImageError


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def test_a_thumbnail_is_upright_small_and_without_exif():
    image = Image.new("RGB", (600, 300), "red")
    image.paste("blue", (0, 0, 300, 300))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: the left is the top
    exif[0x010E] = "a secret place"
    data = encoded(image, exif=exif)
    made = thumbnail(data, name="x")
    with Image.open(io.BytesIO(made)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (128, 256))
        assert not picture.getexif() and b"secret" not in made
        top, bottom = (picture.convert("RGB").getpixel((64, y)) for y in (20, 230))
    assert top[2] > 200 > 60 > top[0] and bottom[0] > 200 > 60 > bottom[2]


def test_a_small_picture_is_not_made_larger():
    made = thumbnail(encoded(Image.new("RGB", (20, 10))), name="x")
    with Image.open(io.BytesIO(made)) as picture:
        assert picture.size == (20, 10)
    thin = thumbnail(encoded(Image.new("RGB", (4000, 2))), name="x", longest_side=64)
    with Image.open(io.BytesIO(thin)) as picture:
        assert picture.size == (64, 1)


def test_a_thumbnail_of_no_picture_says_which():
    with pytest.raises(ImageError, match="'x.jpg'"):
        thumbnail(b"nonsense", name="x.jpg")
