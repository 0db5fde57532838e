"""Preprocessing equals the transforms that the published numbers were made with."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision.transforms import v2

from dino_infer.errors import ImageError
from dino_infer.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

ONE_LEVEL = 1.001 / 255  # torch and Pillow round their filter weights differently
ROUNDING = 2e-6  # of float32, in normalised units

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # leaves [0, 1]


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with noise and hard edges."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (max(2, height // 20), max(2, width // 20), 3), dtype=np.uint8)
    smooth = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noisy = smooth.astype(int) + rng.integers(-20, 20, smooth.shape)
    noisy[height // 3 : height // 2] = (255, 0, 128)
    return noisy.clip(0, 255).astype(np.uint8)


def torchvision_of(image, *, resize: int, crop: int) -> torch.Tensor:
    """The evaluation transform of the original, on a Pillow image."""
    transform = v2.Compose(
        [
            v2.Resize(resize, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(crop),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    return transform(Image.fromarray(image))


@pytest.mark.parametrize(
    "size", [(375, 500), (500, 375), (256, 256), (100, 80), (1, 1), (2000, 1501), (257, 255)]
)
def test_the_default_equals_resize_256_and_center_crop_224(size):
    image = photo(*size)
    got = Preprocess(**PLAIN)(image)
    assert got.shape == (3, 224, 224) and got.is_contiguous()
    expected = torchvision_of(image, resize=256, crop=224)
    torch.testing.assert_close(got, expected, atol=ONE_LEVEL, rtol=0)
    assert (got - expected).abs().mean() < 0.02 / 255


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.integers(1, 120),
    ratio=st.floats(1, 1.5),
)
def test_any_size_equals_torchvision(height, width, size, ratio):
    image = photo(height, width)
    got = Preprocess(size=size, resize_ratio=ratio, **PLAIN)(image)
    off = (got - torchvision_of(image, resize=round(size * ratio), crop=size)).abs()
    # Each axis is rounded on its own: at some sizes a few pixels are off by one level in both.
    assert off.max() <= 2 * ONE_LEVEL
    assert (off > ONE_LEVEL).sum() <= max(3, 1e-3 * off.numel())  # a pixel, where there are few


@pytest.mark.parametrize("size", [(40, 3000), (3000, 40), (1, 300), (7, 700)])
def test_elongated_images_equal_torchvision_too(size):
    image = photo(*size)
    expected = torchvision_of(image, resize=256, crop=224)
    torch.testing.assert_close(Preprocess(**PLAIN)(image), expected, atol=ONE_LEVEL, rtol=0)


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (3, 50_000)])
def test_of_extreme_strips_only_what_is_kept_is_computed(size, monkeypatch):
    def whole(*_, **__):
        raise MemoryError("the whole strip was resized")

    monkeypatch.setattr(F, "interpolate", whole)
    assert Preprocess()(np.full((*size, 3), 50, dtype=np.uint8)).shape == (3, 224, 224)


def test_values_are_normalised_as_totensor_and_normalize_do():
    image = photo(64, 64)
    got = Preprocess(size=64, resize_ratio=1.0)(image)
    expected = v2.functional.normalize(
        torch.from_numpy(image).permute(2, 0, 1) / 255, list(IMAGENET_MEAN), list(IMAGENET_STD)
    )
    torch.testing.assert_close(got, expected, atol=ROUNDING, rtol=0)
    assert got.dtype == torch.float32


def test_pixels_of_many_images_are_normalised_at_once():
    preprocess = Preprocess(size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3))
    images = [photo(50, 40, seed) for seed in range(3)]
    pixels = torch.stack([preprocess.pixels(image) for image in images])
    assert pixels.dtype == torch.uint8
    together = torch.stack([preprocess(image) for image in images])
    assert torch.equal(preprocess.normalized(pixels), together)
    expected = (pixels / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor(
        [0.5, 0.4, 0.3]
    )[:, None, None]
    torch.testing.assert_close(together, expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize(
    ("preprocess", "least"),
    [
        (Preprocess(), (512, 512)),
        (Preprocess(size=100, resize_ratio=1.0), (200, 200)),
        (Preprocess(size=(60, 100), crop="none"), (120, 200)),
        (Preprocess(size=224, crop="none", patch_size=16), (448, 448)),
        (Preprocess(exact_decode=True), None),
    ],
)
def test_decoding_leaves_twice_the_pixels_that_a_side_needs(preprocess, least):
    assert preprocess.least_decoded == least


def test_two_sides_cut_a_rectangle_from_the_centre():
    image = photo(120, 400)
    got = Preprocess(size=(60, 100), resize_ratio=1.0, **PLAIN)(image)
    resized = np.array(Image.fromarray(image).resize((200, 60), Image.Resampling.BICUBIC))
    expected = torch.from_numpy(resized[:, 50:150].copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(got, expected, atol=ONE_LEVEL, rtol=0)
    # The image is just as high as the rectangle, relative to its width, or higher.
    assert Preprocess(size=(60, 100))(photo(400, 120)).shape == (3, 60, 100)
    assert Preprocess(size=(33, 77), resize_ratio=1.0)(photo(121, 53)).shape == (3, 33, 77)


def test_without_a_crop_the_shorter_side_becomes_the_size():
    image = photo(150, 201)
    got = Preprocess(size=100, crop="none", **PLAIN)(image)
    expected = torchvision_of(image, resize=100, crop=100)
    assert got.shape == (3, 100, 134)
    torch.testing.assert_close(got[:, :, 17:117], expected, atol=ONE_LEVEL, rtol=0)


def test_without_a_crop_only_the_edge_beyond_whole_patches_is_lost():
    image = photo(150, 201)
    whole = Preprocess(size=100, crop="none")(image)
    cut = Preprocess(size=100, crop="none", patch_size=16)(image)
    assert cut.shape == (3, 96, 128)
    torch.testing.assert_close(cut, whole[:, :96, :128])


def test_two_sides_without_a_crop_are_exact():
    image = photo(150, 201)
    got = Preprocess(size=(96, 64), crop="none", patch_size=16, **PLAIN)(image)
    resized = np.array(Image.fromarray(image).resize((64, 96), Image.Resampling.BICUBIC))
    expected = torch.from_numpy(resized).permute(2, 0, 1) / 255
    torch.testing.assert_close(got, expected, atol=ONE_LEVEL, rtol=0)


def test_a_strip_that_would_fill_the_memory_is_refused():
    with pytest.raises(ImageError, match="30000 x 1 pixels would be resized to 6720000 x 224"):
        Preprocess(crop="none")(np.zeros((1, 30_000, 3), dtype=np.uint8), path="strip.png")


def test_arrays_of_any_layout_are_accepted_and_left_alone():
    image = photo(90, 70)
    expected = Preprocess(size=32)(image)
    read_only = image.copy()
    read_only.flags.writeable = False
    fortran = np.asfortranarray(image)
    flipped_twice = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    for same in (read_only, fortran, flipped_twice):
        torch.testing.assert_close(Preprocess(size=32)(same), expected)
    kept = photo(32, 32)
    Preprocess(size=32, resize_ratio=1.0)(kept)
    np.testing.assert_array_equal(kept, photo(32, 32))


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(),
        Preprocess(size=(96, 64), crop="none", patch_size=8, mean=(0.5, 0.5, 0.5)),
        Preprocess(size=518, resize_ratio=1.0, std=(0.5, 0.25, 0.125)),
    ],
)
def test_settings_survive_json(preprocess):
    metadata = preprocess.as_metadata()
    read = json.loads(json.dumps(metadata))
    assert read == metadata
    assert Preprocess.from_metadata(read) == preprocess


def test_metadata_may_leave_out_defaults_but_not_invent_names():
    assert Preprocess.from_metadata({"size": 96}) == Preprocess(size=96)
    with pytest.raises(ValueError, match=r"unknown preprocessing \['sise'\], expected some of"):
        Preprocess.from_metadata({"sise": 96})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"size": (96, -1)}, "size must be at least 1"),
        ({"size": 8, "crop": "none", "patch_size": 16}, "size must be at least patch_size = 16"),
        ({"patch_size": 16}, 'go with crop="none"'),
        ({"crop": "none", "patch_size": 0}, "patch_size must be at least 1"),
        ({"resize_ratio": 0.9}, "resize_ratio must be at least 1, got 0.9"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be above 0"),
        ({"crop": "middle"}, "crop"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    # Checked annotations refuse an unknown crop before the class itself does.
    with pytest.raises(Exception, match=message):
        Preprocess(**settings)
