"""The parameters of crops: their ranges, their distribution, their independence."""

import functools
import itertools
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy import stats
from torchvision.transforms import ColorJitter, RandomResizedCrop

from dino_train.crops.boxes import random_resized_boxes
from dino_train.crops.parameters import CropParams, draw_batch
from dino_train.crops.spec import CropSpec
from tests.train.photos import draw_crops, stack_params

# With fixed seeds these tests cannot flake; the level only says how surprising a draw may be.
SURPRISE = 1e-3


def draw(spec: CropSpec = CropSpec(), **changes: int) -> CropParams:  # noqa: B008
    return draw_crops(
        spec, **{"seed": 3, "epoch": 1, "index": 5, "height": 375, "width": 500, **changes}
    )


@functools.cache
def many(images: int, spec: CropSpec = CropSpec(), **changes: int) -> CropParams:  # noqa: B008
    return stack_params([draw(spec, index=index, **changes) for index in range(images)])


def differing_rows(one: CropParams, other: CropParams) -> set[int]:
    return {
        row
        for field in fields(one)
        for row, (a, b) in enumerate(
            zip(getattr(one, field.name), getattr(other, field.name), strict=False)
        )
        if not np.array_equal(a, b)
    }


def test_the_defaults_are_the_published_ones():
    spec = CropSpec()
    assert (spec.global_crops_size, spec.global_crops_scale) == (224, (0.4, 1.0))
    assert (spec.local_crops_size, spec.local_crops_scale) == (96, (0.05, 0.4))
    assert (spec.local_crops_number, spec.crop_ratio) == (8, (3 / 4, 4 / 3))
    assert (spec.brightness, spec.contrast, spec.saturation, spec.hue) == (0.4, 0.4, 0.2, 0.1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("global_crops_size", 0),
        ("local_crops_size", -1),
        ("local_crops_number", -1),
        ("global_crops_scale", (0.0, 1.0)),
        ("global_crops_scale", (0.5, 0.4)),
        ("local_crops_scale", (0.1, 1.1)),
        ("local_crops_scale", (0.1, math.nan)),
        ("crop_ratio", (0.0, 1.0)),
        ("blur_sigma", (0.0, 2.0)),
        ("blur_sigma", (0.1, math.inf)),
        ("flip_probability", 1.5),
        ("blur_probability_local", -0.1),
        ("solarize_probability", math.nan),
        ("brightness", 1.1),
        ("hue", 0.6),
        ("solarize_threshold", 300),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(setting, value):
    with pytest.raises(ValueError, match=setting) as caught:
        CropSpec(**{setting: value})
    assert repr(value) in str(caught.value)


def test_a_batch_draws_what_its_images_draw_alone():
    sizes, keys = np.array([[375, 500], [40, 900], [1, 1]]), [(1, 5), (0, 2), (7, 0)]
    together = draw_batch(CropSpec(), seed=3, keys=keys, sizes=sizes)
    for row, ((epoch, index), (height, width)) in enumerate(zip(keys, sizes, strict=True)):
        alone = draw(epoch=epoch, index=index, height=int(height), width=int(width))
        assert differing_rows(together[row], alone) == set()


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(ValueError, match="height 0"):
        draw(height=0)


def test_parameters_depend_on_seed_epoch_and_index_alone():
    reference = draw()
    np.random.seed(1)
    torch.manual_seed(1)
    assert differing_rows(reference, draw()) == set()
    for changes in ({"seed": 4}, {"epoch": 2}, {"index": 6}):
        assert len(differing_rows(reference, draw(**changes))) == 10, changes


def test_more_local_crops_leave_the_other_crops_as_they_are():
    few, more = draw(CropSpec(local_crops_number=2)), draw(CropSpec(local_crops_number=9))
    assert differing_rows(few, more[:4]) == set()
    assert more.top.shape == (11,)


def test_an_image_may_have_no_local_crops():
    assert draw(CropSpec(local_crops_number=0)).top.shape == (2,)


def one_box_at_a_time(uniform, height, width, scale, ratio):
    """RandomResizedCrop.get_params of torchvision, fed with given numbers."""
    for area_number, ratio_number in zip(uniform[:10], uniform[10:20], strict=True):
        area = height * width * (scale[0] + area_number * (scale[1] - scale[0]))
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + ratio_number * (high - low))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = math.floor(uniform[20] * (height - box_height + 1))
            return top, math.floor(uniform[21] * (width - box_width + 1)), box_height, box_width
    return RandomResizedCrop.get_params(torch.empty(3, height, width), [9, 9], list(ratio))


@pytest.mark.parametrize("size", [(375, 500), (32, 32), (40, 600), (600, 40), (1, 1), (3, 200)])
def test_boxes_equal_a_scalar_loop_over_the_same_numbers(size):
    uniform = np.random.default_rng(0).random((300, 22))
    scale, ratio = (0.3, 1.0), (3 / 4, 4 / 3)
    boxes = random_resized_boxes(
        uniform, height=size[0], width=size[1], scale=np.array([scale] * 300), ratio=ratio
    )
    expected = [one_box_at_a_time(numbers, *size, scale, ratio) for numbers in uniform]
    np.testing.assert_array_equal(np.stack(boxes, axis=1), expected)


@settings(deadline=None)  # the machine may be busy
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted).map(tuple),
    seed=st.integers(0, 2**40),
)
def test_every_box_lies_inside_the_picture(height, width, scale, seed):
    spec = CropSpec(global_crops_scale=scale, local_crops_scale=scale)
    params = draw(spec, seed=seed, height=height, width=width)
    assert (params.height >= 1).all() and (params.width >= 1).all()
    assert (params.top >= 0).all() and (params.top + params.height <= height).all()
    assert (params.left >= 0).all() and (params.left + params.width <= width).all()


@pytest.mark.parametrize("size", [(375, 500), (300, 100)])
@pytest.mark.parametrize(("crop", "scale"), [(0, (0.4, 1.0)), (5, (0.05, 0.4))])
def test_boxes_are_distributed_as_torchvisions(size, crop, scale):
    height, width = size
    ours = many(2000, height=height, width=width)[:, crop]
    picture = torch.empty(3, height, width)
    draws = [
        RandomResizedCrop.get_params(picture, list(scale), [3 / 4, 4 / 3]) for _ in range(2000)
    ]
    theirs = dict(zip(("top", "left", "height", "width"), np.array(draws).T, strict=True))
    quantities = {
        "area": lambda top, left, height, width: height * width,
        "log ratio": lambda top, left, height, width: np.log(width / height),
        "vertical position": lambda top, left, height, width: top + height / 2,
        "horizontal position": lambda top, left, height, width: left + width / 2,
    }
    for name, quantity in quantities.items():
        our_values = quantity(ours.top, ours.left, ours.height, ours.width)
        their_values = quantity(**theirs)
        assert stats.ks_2samp(our_values, their_values).pvalue > SURPRISE, name


def test_jitter_factors_are_distributed_as_torchvisions():
    jitter = ColorJitter(0.4, 0.4, 0.2, 0.1)
    draws = [
        jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)[1:]
        for _ in range(2000)
    ]
    ours = many(400).jitter_factors.reshape(-1, 4)
    for kind, theirs in enumerate(np.array(draws).T):
        assert stats.ks_2samp(ours[:, kind], theirs).pvalue > SURPRISE
    assert (np.abs(ours - [1, 1, 1, 0]) <= np.float32([0.4, 0.4, 0.2, 0.1]) + 1e-6).all()


def test_each_order_of_the_jitter_is_equally_likely():
    orders = many(1000).jitter_order.reshape(-1, 4)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    counts = [
        (orders == permutation).all(axis=1).sum()
        for permutation in itertools.permutations(range(4))
    ]
    assert stats.chisquare(counts).pvalue > SURPRISE


def test_each_operation_has_its_probability():
    params = many(3000)
    blurred = params.blur_sigma > 0
    for name, drawn, probability in (
        ("flip", params.flip, 0.5),
        ("jitter", params.jitter, 0.8),
        ("grayscale", params.grayscale, 0.2),
        ("blur of global 2", blurred[:, 1], 0.1),
        ("blur of locals", blurred[:, 2:], 0.5),
        ("solarisation of global 2", params.solarize[:, 1], 0.2),
    ):
        assert stats.binomtest(int(drawn.sum()), drawn.size, probability).pvalue > SURPRISE, name
    assert blurred[:, 0].all()
    assert not params.solarize[:, [0, 2, 3, 4, 5, 6, 7, 8, 9]].any()


def test_sigma_is_uniform_within_its_range():
    sigma = many(3000).blur_sigma[:, 0]
    assert stats.kstest(sigma, stats.uniform(0.1, 1.9).cdf).pvalue > SURPRISE


def test_operations_of_a_crop_and_of_its_neighbours_are_independent():
    params = many(3000)
    columns = {
        "flip": params.flip[:, 0],
        "flip of the next crop": params.flip[:, 1],
        "jitter": params.jitter[:, 0],
        "grayscale": params.grayscale[:, 0],
        "blur": params.blur_sigma[:, 0],
        "brightness": params.jitter_factors[:, 0, 0],
        "contrast": params.jitter_factors[:, 0, 1],
        "area": params.height[:, 0] * params.width[:, 0],
        "area of the next crop": params.height[:, 1] * params.width[:, 1],
    }
    for (name, one), (other_name, other) in itertools.combinations(columns.items(), 2):
        assert stats.pearsonr(one, other).pvalue > SURPRISE / 10, (name, other_name)


def test_probabilities_of_0_and_1_are_certain():
    names = [field.name for field in fields(CropSpec) if "probability" in field.name]
    never, always = (
        many(50, CropSpec(**dict.fromkeys(names, probability))) for probability in (0.0, 1.0)
    )
    for params, expected in ((never, False), (always, True)):
        for drawn in (params.flip, params.jitter, params.grayscale, params.blur_sigma > 0):
            assert (drawn == expected).all()
        assert (params.solarize[:, 1] == expected).all()


def test_crop_major_puts_all_first_crops_first():
    params = many(3)
    flat = params.crop_major()
    assert flat.top.shape == (30,) and flat.jitter_order.shape == (30, 4)
    np.testing.assert_array_equal(flat.top[:3], params.top[:, 0])
    np.testing.assert_array_equal(flat.jitter_factors[-1], params.jitter_factors[2, 9])


def test_scaled_boxes_cover_the_same_part_of_a_smaller_copy():
    params = draw(height=1200, width=1600)
    small = params.scaled(from_size=(1200, 1600), to_size=(300, 401))
    for edge, length, ratio in (("top", "height", 300 / 1200), ("left", "width", 401 / 1600)):
        start, span = getattr(params, edge) * ratio, getattr(params, length) * ratio
        assert np.abs(getattr(small, edge) - start).max() <= 0.5
        assert np.abs(getattr(small, edge) + getattr(small, length) - start - span).max() <= 0.5
    assert (
        differing_rows(params, params.scaled(from_size=(1200, 1600), to_size=(1200, 1600))) == set()
    )


@settings(deadline=None)  # the machine may be busy
@given(old=st.integers(1, 50), new=st.integers(1, 50), data=st.data())
def test_a_scaled_box_never_vanishes_or_leaves_the_picture(old, new, data):
    start = data.draw(st.integers(0, old - 1))
    length = data.draw(st.integers(1, old - start))
    params = replace(draw()[0:1], top=np.int32([start]), height=np.int32([length]))
    small = params.scaled(from_size=(old, 500), to_size=(new, 500))
    assert small.height[0] >= 1 and small.top[0] >= 0 and small.top[0] + small.height[0] <= new
