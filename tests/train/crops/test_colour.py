"""Each colour operation against Pillow's on bytes, level by level."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from dino_train.crops.colour import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    augment_colours,
    gaussian_blur,
    grayscale,
    normalize,
    solarize,
)
from dino_train.crops.parameters import CropParams
from dino_train.crops.spec import CropSpec
from tests.train.photos import (
    LEVELS,
    as_picture,
    as_tensor,
    draw_crops,
    neutral_params,
    stack_params,
    tiles,
)

# Pillow rounds to bytes after each of its six box filters.
PILLOW_BLUR_MEAN, PILLOW_BLUR_MAX = 0.6, 3.0

# A blurred level halfway between two may round to the other in a batch of another size.
BLUR_SHARE_OFF = 1e-4

JITTERS = {
    "brightness": (adjust_brightness, tv.adjust_brightness, (0.0, 0.6, 1.0, 1.4, 300.0)),
    "contrast": (adjust_contrast, tv.adjust_contrast, (0.0, 0.6, 1.0, 1.4, 300.0)),
    "saturation": (adjust_saturation, tv.adjust_saturation, (0.0, 0.8, 1.0, 1.2, 300.0)),
    "hue": (adjust_hue, tv.adjust_hue, (-0.5, -0.003, 0.0, 0.003, 0.5)),
}
CASES = [(name, value) for name, (_, _, values) in JITTERS.items() for value in values]


def by_pillow(images: Tensor, operation: Callable[[Image.Image], Image.Image]) -> Tensor:
    return torch.stack([as_tensor(operation(as_picture(image))) for image in images])


def assert_close(ours: Tensor, theirs: Tensor, *, mean: float, highest: float) -> None:
    difference = (ours - theirs).abs()
    assert difference.mean() <= mean and difference.max() <= highest, (
        f"mean {difference.mean():.4f}, highest {difference.max():.4f}"
    )


def many_images() -> Tensor:
    """Tiles of photos, noise of all levels, dark noise and noise that is nearly grey."""
    numbers = torch.Generator().manual_seed(0)
    noise, dark, tint = (
        torch.randint(0, high, (4, 3, 96, 96), generator=numbers).float() for high in (256, 40, 8)
    )
    return torch.cat([tiles(), noise, dark, tint + noise[:, :1].clamp(max=248)])


@pytest.mark.parametrize(("name", "value"), CASES)
def test_jitter_equals_pillow(name, value):
    ours, theirs, _ = JITTERS[name]
    images = many_images()
    made = ours(images, torch.full((len(images),), value))
    assert torch.equal(made, by_pillow(images, lambda picture: theirs(picture, value)))


@pytest.mark.parametrize("name", JITTERS)
def test_jitter_equals_pillow_for_any_factor(name):
    ours, theirs, _ = JITTERS[name]
    images, rng = many_images(), np.random.default_rng(0)
    for _ in range(8):
        low, high = (-0.5, 0.5) if name == "hue" else (0, 2)
        factors = rng.uniform(low, high, len(images)).astype(np.float32)
        expected = [
            as_tensor(theirs(as_picture(image), float(factor)))
            for image, factor in zip(images, factors, strict=True)
        ]
        assert torch.equal(ours(images, torch.from_numpy(factors)), torch.stack(expected))


def test_contrast_rounds_the_mean_luma_up_from_a_half():
    levels = torch.tensor([[10.0, 11.0], [0.0, 255.0], [10.0, 10.0]])
    made = adjust_contrast(levels[:, None, None].repeat(1, 3, 1, 1), torch.zeros(3))
    assert made.amin(dim=(1, 2, 3)).tolist() == made.amax(dim=(1, 2, 3)).tolist() == [11, 128, 10]


def every_hue() -> Tensor:
    """Each hue of each chroma: every pair of levels in the six orders of the channels."""
    high, middle = torch.cartesian_prod(torch.arange(256.0), torch.arange(256.0)).T
    channels = torch.stack([high, middle.minimum(high), torch.zeros_like(high)])
    orders = [channels[list(order)] for order in itertools.permutations(range(3))]
    return torch.stack(orders).view(6, 3, 256, 256)


@pytest.mark.parametrize("lift", [0, 1, 100])
def test_every_hue_of_every_chroma_is_pillows(lift):
    images = (every_hue() + lift).clamp(max=LEVELS)
    made = adjust_hue(images, torch.full((6,), 0.1))
    assert torch.equal(made, by_pillow(images, lambda picture: tv.adjust_hue(picture, 0.1)))


def test_every_turn_of_the_hue_is_pillows():
    images = torch.cat([tiles(24), many_images()[4:8, :, :24, :24]])
    for turn in np.linspace(-0.5, 0.5, 103, dtype=np.float32).tolist():
        made = adjust_hue(images, torch.full((8,), turn))
        expected = by_pillow(images, lambda picture, turn=turn: tv.adjust_hue(picture, turn))
        assert torch.equal(made, expected), turn


def test_turning_the_hue_leaves_grey_pixels_as_they_are():
    greys = torch.arange(256.0).expand(1, 3, 1, 256)
    assert torch.equal(adjust_hue(greys, torch.tensor([0.3])), greys)


def test_grayscale_is_pillows_luma():
    images = many_images()
    expected = by_pillow(images, lambda picture: tv.rgb_to_grayscale(picture, 3))
    assert torch.equal(grayscale(images), expected)


@pytest.mark.parametrize("threshold", [0, 1, 100, 128, 255, 256])
def test_solarize_equals_pillow(threshold):
    expected = by_pillow(tiles(), lambda picture: ImageOps.solarize(picture, threshold))
    assert torch.equal(solarize(tiles(), threshold=threshold), expected)


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
    images, factors = tiles(), torch.tensor([0.3, 0.8, 1.0, 1.3])
    operations = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue, gaussian_blur)
    for operation in operations:
        together = operation(images, factors)
        for row in range(len(images)):
            alone = operation(images[row : row + 1], factors[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone)


def one_at_a_time(image: Tensor, params: CropParams, threshold: int) -> Tensor:
    """The same operations by Pillow (blur by ours), image by image."""
    picture = as_picture(image)
    if params.jitter:
        for kind in params.jitter_order:
            adjust = list(JITTERS.values())[kind][1]
            picture = adjust(picture, float(params.jitter_factors[kind]))
    if params.grayscale:
        picture = tv.rgb_to_grayscale(picture, 3)
    if params.blur_sigma > 0:
        sigma = torch.tensor([float(params.blur_sigma)])
        picture = as_picture(gaussian_blur(as_tensor(picture)[None], sigma)[0])
    return as_tensor(ImageOps.solarize(picture, threshold) if params.solarize else picture)


def drawn_params(crops: int) -> CropParams:
    spec = CropSpec(solarize_probability=0.9, local_crops_number=0)
    drawn = [draw_crops(spec, seed=1, epoch=0, index=i, height=9, width=9) for i in range(crops)]
    return stack_params(drawn).crop_major()


def test_a_batch_equals_pillow_image_by_image_in_its_own_order():
    params = drawn_params(20)
    images = tiles(48).repeat(10, 1, 1, 1)
    expected = torch.stack(
        [one_at_a_time(image, params[row], 128) for row, image in enumerate(images)]
    )
    augment_colours(images, params, solarize_threshold=128)
    assert (images != expected).float().mean() <= BLUR_SHARE_OFF


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
    assert torch.equal(images, expected)


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
        assert (together[row : row + 1] != alone).float().mean() <= BLUR_SHARE_OFF
