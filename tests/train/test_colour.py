"""Each colour operation against torchvision in floats and against Pillow in bytes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from dino_train.colour import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    augment_colours,
    gaussian_blur,
    grayscale,
    jittered,
    normalize,
    solarize,
)
from dino_train.crops import CropParams, CropSpec, draw_crops, stack_params
from tests.train.photos import LEVELS, as_picture, as_tensor, neutral_params, tiles

# torchvision's luma weights are (0.2989, 0.587, 0.114), Pillow's and ours (0.299, 0.587, 0.114).
FLOAT_TOLERANCE = 0.01
# Pillow drops the fraction of every result: half a level on average, less than one at most, and
# contrast and saturation also round the luma that they blend with.
PILLOW_MEAN, PILLOW_MAX = 0.5, 1.25
# Pillow turns the hue in HSV of 8 bits a channel, twice rounded; in dark pixels that is visible.
PILLOW_HUE_MEAN, PILLOW_HUE_MAX = 0.75, 7.0
# Pillow rounds to bytes after each of its six box filters.
PILLOW_BLUR_MEAN, PILLOW_BLUR_MAX = 0.6, 3.0

JITTERS = {
    "brightness": (adjust_brightness, tv.adjust_brightness, (0.6, 0.9, 1.4)),
    "contrast": (adjust_contrast, tv.adjust_contrast, (0.6, 0.9, 1.4)),
    "saturation": (adjust_saturation, tv.adjust_saturation, (0.8, 1.0, 1.2)),
    "hue": (adjust_hue, tv.adjust_hue, (-0.1, 0.0, 0.03, 0.1, 0.5)),
}
CASES = [(name, value) for name, (_, _, values) in JITTERS.items() for value in values]


def by_pillow(images: Tensor, operation: Callable[[Image.Image], Image.Image]) -> Tensor:
    return torch.stack([as_tensor(operation(as_picture(image))) for image in images])


def assert_close(ours: Tensor, theirs: Tensor, *, mean: float, highest: float) -> None:
    difference = (ours - theirs).abs()
    assert difference.mean() <= mean and difference.max() <= highest, (
        f"mean {difference.mean():.4f}, highest {difference.max():.4f}"
    )


@pytest.mark.parametrize(("name", "value"), CASES)
def test_jitter_equals_torchvision_in_floats(name, value):
    ours, theirs, _ = JITTERS[name]
    images = tiles()
    made = ours(images, torch.full((len(images),), value))
    expected = theirs(images / LEVELS, value) * LEVELS
    assert_close(made, expected, mean=FLOAT_TOLERANCE, highest=FLOAT_TOLERANCE)


@pytest.mark.parametrize(("name", "value"), CASES)
def test_jitter_equals_pillow_to_its_own_rounding(name, value):
    ours, theirs, _ = JITTERS[name]
    images = tiles()
    made = ours(images, torch.full((len(images),), value))
    expected = by_pillow(images, lambda picture: theirs(picture, value))
    mean, highest = (
        (PILLOW_HUE_MEAN, PILLOW_HUE_MAX) if name == "hue" else (PILLOW_MEAN, PILLOW_MAX)
    )
    assert_close(made, expected, mean=mean, highest=highest)


def test_turning_the_hue_leaves_grey_pixels_as_they_are():
    greys = torch.arange(256.0).expand(1, 3, 1, 256)
    torch.testing.assert_close(adjust_hue(greys, torch.tensor([0.3])), greys)


def test_every_pair_of_equal_channels_keeps_its_hue_exact():
    levels = torch.tensor([0.0, 100.0, 255.0])
    images = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 1, 27)
    for turn in (-0.5, -1 / 3, -0.1, 0.0, 1 / 6, 0.5):
        expected = tv.adjust_hue(images / LEVELS, turn) * LEVELS
        made = adjust_hue(images, torch.tensor([turn]))
        assert_close(made, expected, mean=FLOAT_TOLERANCE, highest=FLOAT_TOLERANCE)


def test_grayscale_equals_pillows_luma():
    expected = by_pillow(tiles(), lambda picture: tv.rgb_to_grayscale(picture, 3))
    half_a_level = 0.501  # Pillow rounds it, with weights of 16 bits
    assert_close(grayscale(tiles()), expected, mean=0.25, highest=half_a_level)


@pytest.mark.parametrize("threshold", [0, 1, 100, 128, 255, 256])
def test_solarize_equals_pillow(threshold):
    expected = by_pillow(tiles(), lambda picture: ImageOps.solarize(picture, threshold))
    torch.testing.assert_close(solarize(tiles(), threshold=threshold), expected)


def test_solarize_decides_as_if_the_levels_had_been_rounded():
    images = torch.tensor([99.4, 99.6]).expand(1, 3, 1, 2)
    made = solarize(images, threshold=100)
    torch.testing.assert_close(made[0, 0, 0], torch.tensor([99.4, 255 - 99.6]))


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 5.0])
def test_blur_equals_pillow_up_to_the_edges(sigma):
    images = tiles()
    made = gaussian_blur(images, torch.full((len(images),), sigma))
    expected = by_pillow(images, lambda picture: picture.filter(ImageFilter.GaussianBlur(sigma)))
    assert_close(made, expected, mean=PILLOW_BLUR_MEAN, highest=PILLOW_BLUR_MAX)


def test_blur_may_reach_beyond_a_picture_that_is_not_square():
    images = tiles()[:, :, :3, :7]
    made = gaussian_blur(images, torch.full((len(images),), 2.0))
    expected = by_pillow(images, lambda picture: picture.filter(ImageFilter.GaussianBlur(2.0)))
    assert_close(made, expected, mean=1.0, highest=PILLOW_BLUR_MAX)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.3, 2.0])
def test_blur_has_the_stated_standard_deviation(sigma):
    line = torch.zeros(1, 3, 1, 41)
    line[..., 20] = 1
    spread = gaussian_blur(line, torch.tensor([sigma]))[0, 0, 0]
    place = torch.arange(41.0) - 20
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    assert (spread * place.square()).sum().sqrt().item() == pytest.approx(sigma, rel=1e-4)


def test_normalize_equals_torchvision_for_bytes_and_floats():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = tv.normalize(tiles() / LEVELS, mean, std)
    for images in (tiles(), tiles().to(torch.uint8)):
        torch.testing.assert_close(normalize(images, mean=mean, std=std), expected)


def test_each_image_has_its_own_factor():
    images, factors = tiles(), torch.tensor([0.6, 0.8, 1.0, 1.3])
    for operation in (adjust_brightness, adjust_contrast, adjust_saturation, gaussian_blur):
        together = operation(images, factors)
        for row in range(len(images)):
            alone = operation(images[row : row + 1], factors[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone)


def one_at_a_time(image: Tensor, params: CropParams, threshold: int) -> Tensor:
    """The same operations by torchvision's float functions (blur by ours), image by image."""
    image = image[None] / LEVELS
    if params.jitter:
        for kind in params.jitter_order:
            adjust = list(JITTERS.values())[kind][1]
            image = adjust(image, float(params.jitter_factors[kind]))
    if params.grayscale:
        image = tv.rgb_to_grayscale(image, 3)
    image = image * LEVELS
    if params.blur_sigma > 0:
        image = gaussian_blur(image, torch.tensor([float(params.blur_sigma)]))
    return (solarize(image, threshold=threshold) if params.solarize else image)[0]


def drawn_params(crops: int) -> CropParams:
    spec = CropSpec(solarize_probability=0.9, local_crops_number=0)
    drawn = [draw_crops(spec, seed=1, epoch=0, index=i, height=9, width=9) for i in range(crops)]
    return stack_params(drawn).crop_major()


def test_a_batch_equals_torchvision_image_by_image_in_its_own_order():
    params = drawn_params(20)
    images = tiles(48).repeat(10, 1, 1, 1)
    expected = torch.stack(
        [one_at_a_time(image, params[row], 128) for row, image in enumerate(images)]
    )
    augment_colours(images, params, solarize_threshold=128)
    # Four operations with torchvision's luma weights, one of which may lie at the threshold.
    inverted_by_one_alone = (images - expected).abs() > 5 * FLOAT_TOLERANCE
    assert inverted_by_one_alone.float().mean() < 1e-3
    assert_close(images, expected, mean=FLOAT_TOLERANCE, highest=1 + 5 * FLOAT_TOLERANCE)


def test_jitter_without_branches_is_the_same_jitter():
    params = drawn_params(40)
    kept = {"blur_sigma": np.zeros(80, np.float32), "solarize": np.zeros(80, bool)}
    params = replace(params, **kept)
    images = tiles(24).repeat(20, 1, 1, 1)
    factors = np.where(params.jitter[:, None], params.jitter_factors, np.float32([1, 1, 1, 0]))
    made = jittered(
        images,
        torch.from_numpy(params.jitter_order),
        torch.from_numpy(factors),
        torch.from_numpy(params.grayscale),
    )
    augment_colours(images, params, solarize_threshold=128)
    torch.testing.assert_close(made, images, atol=1e-5 * LEVELS, rtol=0)


def test_the_order_of_the_jitter_matters_and_is_kept():
    order = np.array([[0, 1, 2, 3], [1, 0, 2, 3]], dtype=np.int8)
    factors = np.tile(np.float32([1.4, 0.6, 1.2, 0.1]), (2, 1))
    params = neutral_params(
        2, jitter=np.array([True, True]), jitter_order=order, jitter_factors=factors
    )
    images = tiles()[:1].repeat(2, 1, 1, 1)
    expected = torch.stack([one_at_a_time(images[0], params[row], 128) for row in range(2)])
    augment_colours(images, params, solarize_threshold=128)
    assert (images[0] - images[1]).abs().max() > 3
    assert_close(images, expected, mean=5 * FLOAT_TOLERANCE, highest=5 * FLOAT_TOLERANCE)


def test_images_without_operations_stay_bit_for_bit():
    images, before = tiles(), tiles()
    augment_colours(images, neutral_params(len(images)), solarize_threshold=128)
    assert torch.equal(images, before)


def test_neighbours_do_not_change_an_image():
    params = drawn_params(12)
    images = tiles(32).repeat(6, 1, 1, 1)
    together = images.clone()
    augment_colours(together, params, solarize_threshold=128)
    for row in range(len(images)):
        alone = images[row : row + 1].clone()
        augment_colours(alone, params[row : row + 1], solarize_threshold=128)
        torch.testing.assert_close(together[row : row + 1], alone)
