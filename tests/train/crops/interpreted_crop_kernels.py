"""The Triton kernels against plain tensor maths; run by test_triton_kernels.py.

Needs TRITON_INTERPRET=1 from the start of the process: Triton then runs them on the CPU.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import triton.language as tl

from dino_train.crops import on_device, triton_kernels
from dino_train.crops.memory import pack_images
from dino_train.crops.on_device import DeviceBatch, make_device_crops
from dino_train.crops.parameters import CropParams, draw_batch
from dino_train.crops.spec import CropSpec
from tests.train.photos import photo

SIZES = {"astronaut.png": (48, 48), "chelsea.png": (36, 56), "coffee.png": (60, 24)}
SPEC = CropSpec(
    global_crops_size=33,
    local_crops_size=12,
    local_crops_number=1,
    blur_sigma=(0.1, 2.0),
    solarize_probability=0.9,
)
# The weights are summed up in another order, which once in some thousand pixels rounds otherwise;
# a level more or less may get another hue, which the operations that follow make larger.
SHARE_OFF = 2e-3


def batch(seed: int) -> DeviceBatch:
    """Unequal images with the crops of a seed; the images lie in another order than their rows."""
    pictures = [
        np.array(photo(name).resize((width, height))) for name, (height, width) in SIZES.items()
    ]
    rows = np.array([2, 0, 1])
    images = pack_images(pictures).select(rows)
    keys = [(0, row) for row in range(3)]
    return DeviceBatch(
        images=images, params=draw_batch(SPEC, seed=seed, keys=keys, sizes=images.sizes)
    )


def share_off(ones: torch.Tensor, others: torch.Tensor) -> float:
    return float((ones.float() != others.float()).float().mean())


def without(params: CropParams, *names: str) -> CropParams:
    """The same parameters, some of them put to zero."""
    return replace(params, **{name: np.zeros_like(getattr(params, name)) for name in names})


@pytest.mark.parametrize("seed", [0, 1])
def test_crops_are_those_of_plain_maths(seed):
    drawn = batch(seed)
    plain = make_device_crops(drawn, SPEC)
    for expected, columns in zip(plain, (slice(0, 2), slice(2, None)), strict=True):
        made = triton_kernels.made_crops(
            drawn.images, drawn.params[:, columns], size=expected.shape[-1], solarize_threshold=128
        )
        assert made.dtype == torch.uint8
        assert share_off(made, expected) <= SHARE_OFF


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 300), (90, 3)])
def test_images_of_odd_shapes_are_resized(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    images = pack_images([image])
    params = draw_batch(SPEC, seed=0, keys=[(0, 0)], sizes=images.sizes)[:, :1]
    expected = on_device.resized_crops(images.padded(), params, size=33)
    made = torch.empty(expected.shape, dtype=torch.uint8)
    triton_kernels._resize(images, params.crop_major(), made)
    assert (made.float() - expected).abs().max() <= 1
    assert share_off(made, expected) <= SHARE_OFF


@pytest.mark.parametrize("dropped", [("blur_sigma",), ("jitter", "grayscale")])
def test_colours_of_equal_levels_are_equal(dropped):
    drawn = batch(2)
    params = without(drawn.params[:, :2], "solarize", *dropped)
    levels = on_device.resized_crops(drawn.images.padded(), params, size=33)
    made = levels.to(torch.uint8)
    on_device.augment_colours(levels.flatten(0, 1), params.crop_major(), solarize_threshold=128)
    triton_kernels._jitter(made, params.crop_major())
    triton_kernels._blur_some(made, params.crop_major())
    assert torch.equal(made.float(), levels)


def test_right_kernels_stay_on_after_each_was_checked(monkeypatch):
    begun = []
    for name in ("_resample", "_colour", "_blur"):
        kernel = getattr(triton_kernels, name)
        counted = type(
            "Counted", (), {"__getitem__": lambda _, grid, k=kernel: begun.append(k) or k[grid]}
        )
        monkeypatch.setattr(triton_kernels, name, counted())
    assert on_device._kernels.__wrapped__(torch.device("cpu"), 12) is triton_kernels
    assert {kernel.fn.__name__ for kernel in begun} == {"_resample", "_colour", "_blur"}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_LUMA_RED", tl.constexpr(0.6)),
        ("_PER_DEPTH", tl.constexpr(0.8 / 255**2)),
        ("_blur_some", lambda made, params: None),
    ],
)
def test_wrong_kernels_are_switched_off_with_a_line(monkeypatch, caplog, name, wrong):
    monkeypatch.setattr(triton_kernels, name, wrong)
    assert on_device._kernels.__wrapped__(torch.device("cpu"), 12) is None
    (said,) = caplog.messages
    assert "made by plain PyTorch" in said and "its crops of 12 px differ" in said
