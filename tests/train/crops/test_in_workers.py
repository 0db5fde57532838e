"""The compiled worker executor and the one without numba and simplejpeg."""

import logging

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image

from dino_infer.images import turbo
from dino_infer.images.read import read_image
from dino_train.crops import in_workers
from dino_train.crops.colour import augment_colours
from dino_train.crops.parameters import CropParams
from dino_train.crops.spec import CropSpec
from tests.train.photos import PHOTOS, draw_crops, neutral_params, photo

SPEC = CropSpec(solarize_probability=0.5, local_crops_number=4)
# The jitter is the same bit for bit; a blurred level halfway between two may round to the other.
KERNEL_SHARE_OFF = 1e-4
ADJUSTS = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def made(image: np.ndarray, params: CropParams, spec: CropSpec = SPEC) -> in_workers.WorkerCrops:
    crops = in_workers.empty_crops(spec, batch_size=2)
    for one in crops.tensors():
        one.fill_(7)
    in_workers.write_crops(crops, 1, image, params, spec)
    assert all((one[:, 0] == 7).all() for one in crops.tensors())  # no other row is touched
    return crops


@pytest.fixture
def without_extra(monkeypatch):
    """As on a machine where the packages of the extra are not installed."""
    monkeypatch.setattr(in_workers, "_kernel", lambda: None)
    monkeypatch.setattr(turbo, "_simplejpeg", lambda: None)


@pytest.mark.parametrize("epoch", range(6))
def test_the_compiled_colours_are_the_plain_ones(epoch, monkeypatch):
    for index, name in enumerate(PHOTOS):
        image = np.array(photo(name))
        height, width = image.shape[:2]
        params = draw_crops(SPEC, seed=0, epoch=epoch, index=index, height=height, width=width)
        compiled = made(image, params)
        with monkeypatch.context() as patched:
            patched.setattr(in_workers, "_kernel", lambda: None)
            plain = made(image, params)
        for one, other in zip(compiled.tensors(), plain.tensors(), strict=True):
            assert (one != other).float().mean() <= KERNEL_SHARE_OFF


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("compiled", [True, False])
def test_each_jitter_equals_pillow_bit_for_bit(kind, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(in_workers, "_kernel", lambda: None)
    size, rng = 96, np.random.default_rng(kind)
    spec = CropSpec(global_crops_size=size, local_crops_number=0)
    spans = np.full(2, size, np.int32)
    for turn in range(12):
        image = rng.integers(0, 256 if turn % 2 else 50, (size, size, 3), dtype=np.uint8)
        factors = np.tile(np.float32([1, 1, 1, 0]), (2, 1))
        factors[:, kind] = rng.uniform(-0.5, 0.5, 2) + (kind != 3)
        flip, jitter = np.array([False, True]), np.array([True, True])
        params = neutral_params(
            2, height=spans, width=spans, jitter=jitter, jitter_factors=factors, flip=flip
        )
        crops = made(image, params, spec).global_crops[:, 1]
        for crop, adjusted in enumerate(crops):
            picture = Image.fromarray(image[:, ::-1] if flip[crop] else image)
            for adjust, factor in zip(ADJUSTS, factors[crop].tolist(), strict=True):
                picture = adjust(picture, factor)
            np.testing.assert_array_equal(adjusted.permute(1, 2, 0).numpy(), np.array(picture))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0, 5.0])
@pytest.mark.parametrize("size", [3, 17, 96])
def test_the_compiled_blur_is_the_plain_one_up_to_the_edges(sigma, size):
    spec = CropSpec(global_crops_size=size, local_crops_number=0)
    image = np.array(photo("rocket.jpg"))[:size, 200 : 200 + size]
    spans = np.full(2, size, np.int32)
    params = neutral_params(2, height=spans, width=spans, blur_sigma=np.full(2, sigma, np.float32))
    blurred = made(image, params, spec).global_crops[0, 1].float()
    expected = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float().repeat(2, 1, 1, 1)
    augment_colours(expected, params, solarize_threshold=128)
    assert (blurred - expected[0]).abs().max() <= 1  # halfway levels round either way


def test_the_missing_extra_is_named_once_and_everything_works(caplog, without_extra):
    with caplog.at_level(logging.WARNING):
        in_workers.prepare_executor()
    assert [record.getMessage() for record in caplog.records] == [
        "crops take about twice as long without simplejpeg and numba: "
        "pip install 'dino-toolkit[fast]'"
    ]
    image = np.array(photo("coffee.png"))
    params = draw_crops(SPEC, seed=0, epoch=0, index=0, height=400, width=600)
    assert made(image, params).global_crops[:, 1].float().std() > 20


def test_nothing_is_said_when_nothing_is_missing(caplog):
    with caplog.at_level(logging.WARNING):
        in_workers.prepare_executor()
    assert not caplog.records


def test_an_image_decodes_alike_without_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "it.jpg"
    photo("rocket.jpg").save(path, quality=85)
    data = path.read_bytes()
    fast = read_image(data, path="it"), read_image(data, path="it", min_scale_size=(100, 100))
    monkeypatch.setattr(turbo, "_simplejpeg", lambda: None)
    slow = read_image(data, path="it"), read_image(data, path="it", min_scale_size=(100, 100))
    for one, other in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(one, other)
