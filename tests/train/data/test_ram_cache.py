"""Caches of decoded images: the same batches as without, in bounded memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_infer.errors import TrainingError
from dino_infer.sources.image_list import ImageList, list_images
from dino_train.crops.spec import CropSpec
from dino_train.data.dataset import CropDataset
from dino_train.data.decode_sizes import decoded_amount
from dino_train.data.gpu_cache import cached_batches, fill_cache
from dino_train.data.loader import build_loader, make_crops
from dino_train.data.ram_cache import RamCache, free_ram_bytes, plan_cache
from dino_train.data.sampler import StepSampler
from tests.train.photos import photo

CPU = torch.device("cpu")
SPEC = CropSpec(global_crops_size=24, local_crops_size=16, local_crops_number=2)
GIB = 2**30


def sampler(num_images: int) -> StepSampler:
    steps = num_images // 4
    return StepSampler(
        num_images,
        batch_size_per_process=4,
        seed=5,
        steps_per_epoch=steps,
        start_step=0,
        total_steps=3 * steps,
    )


def batches(images: ImageList, executor: str, **options) -> list:
    order = sampler(len(images))
    return list(build_loader(images, SPEC, executor=executor, sampler=order, **options))


def assert_same_crops(ones, others) -> None:
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one.indices, other.indices)
        for crops, other_crops in zip(
            make_crops(one, CPU).groups(), make_crops(other, CPU).groups(), strict=True
        ):
            # The products round differently among neighbours of another width.
            torch.testing.assert_close(crops, other_crops, atol=1e-4, rtol=0)


def ram_cache(images: ImageList, capacity_bytes: int = 10**6) -> RamCache:
    return RamCache(len(images), capacity_bytes=capacity_bytes)


@pytest.fixture
def images(image_folder, tmp_path) -> ImageList:
    folder = image_folder(count=11)
    photo("coffee.png").resize((90, 30)).save(folder / "class_0" / "wide.jpg")
    return list_images(folder)


@pytest.mark.parametrize("executor", ["worker", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_in_memory_changes_no_crop(images, executor, workers):
    cache = ram_cache(images)
    kept = batches(images, executor, workers=workers, cache=cache)
    assert cache.count == len(images)
    assert int(cache._used) == 11 * 3 * 40 * 48 + 3 * 90 * 30
    assert_same_crops(batches(images, executor, workers=0), kept)


def test_an_image_that_two_workers_decode_at_once_is_kept_once():
    cache = RamCache(2, capacity_bytes=1000)
    pixels = np.full((2, 3, 3), 7, dtype=np.uint8)

    class Slow(np.ndarray):
        def reshape(self, *shape):
            cache.keep(0, pixels, full_size=(2, 3))  # while this one is being written
            return pixels.reshape(*shape)

    cache.keep(0, pixels.view(Slow), full_size=(2, 3))
    assert int(cache._used) == pixels.size and cache.count == 1
    assert np.array_equal(cache.image(0).kept, pixels)


def test_a_cache_in_memory_survives_spawned_workers(images):
    cache = RamCache(len(images), capacity_bytes=10**6, start_method="spawn")
    batches(images, "device", workers=1, cache=cache, start_method="spawn")
    assert cache.count == len(images)


def test_kept_images_are_read_no_more(images, tmp_path):
    cache = ram_cache(images)
    first = batches(images, "worker", workers=0, cache=cache)
    for index in range(len(images)):
        Path(images.location(index)).write_bytes(b"")
    again = batches(images, "worker", workers=0, cache=cache)
    assert_same_crops(first, again)
    assert not any(batch.failures for batch in again)


def test_a_cache_that_is_full_keeps_what_it_has(images):
    cache = ram_cache(images, capacity_bytes=5 * 3 * 40 * 48 + 100)
    kept = batches(images, "worker", workers=2, cache=cache)
    assert 0 < cache.count <= 6
    assert int(cache._used) <= 5 * 3 * 40 * 48 + 100
    assert_same_crops(batches(images, "worker", workers=0), kept)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_cache_on_the_device_changes_no_crop(images, workers):
    # Too little room, so that it has to grow.
    cache = fill_cache(images, SPEC, capacity_bytes=10_000, device=CPU, workers=workers)
    order = sampler(len(images))
    cached = list(cached_batches(cache, SPEC, sampler=order, workers=workers))
    assert_same_crops(batches(images, "device", workers=0), cached)


def test_bad_images_are_replaced_and_told_once_by_a_cache_on_the_device(images):
    for bad in (2, 3, 11):
        Path(images.location(bad)).write_bytes(b"not an image")
    expected = batches(images, "device", workers=0)
    cache = fill_cache(images, SPEC, capacity_bytes=10**6, device=CPU, workers=0)
    cached = list(cached_batches(cache, SPEC, sampler=sampler(len(images)), workers=0))
    assert_same_crops(expected, cached)
    told = [failure.path for batch in cached for failure in batch.failures]
    assert sorted(told) == sorted(images.location(bad) for bad in (2, 3, 11))


def test_a_listing_without_one_readable_image_fills_no_cache(images):
    for bad in range(len(images)):
        Path(images.location(bad)).write_bytes(b"not an image")
    with pytest.raises(TrainingError, match="none of the images can be read"):
        fill_cache(images, SPEC, capacity_bytes=10**6, device=CPU, workers=0)


def test_large_photos_are_kept_no_larger_than_any_crop_needs(tmp_path):
    photo("coffee.png").resize((2400, 1600), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg")
    images = list_images(tmp_path)
    cache = ram_cache(images)
    with_cache = CropDataset(images, SPEC, executor="worker", seed=0, cache=cache)
    first, again = with_cache[0, 0].payload, with_cache[0, 0].payload
    kept = cache.image(0)
    assert kept.size == (1600, 2400)
    assert kept.kept.shape == (200, 300, 3)  # 24 px from at least 303, twice over: an eighth
    assert torch.equal(first.global_crops, again.global_crops)
    without = CropDataset(images, SPEC, executor="worker", seed=0)[0, 0].payload
    difference = first.global_crops.float() - without.global_crops.float()
    assert difference.abs().mean() <= 4  # another scale of the decoder
    on_device = fill_cache(images, SPEC, capacity_bytes=10**6, device=CPU, workers=0)
    assert on_device.images.sizes.tolist() == [[200, 300]]
    assert on_device.full_sizes.tolist() == [[1600, 2400]]


def test_the_memory_of_all_images_is_estimated_from_some(images):
    exact = 11 * 3 * 40 * 48 + 3 * 90 * 30
    assert exact <= decoded_amount(images, SPEC).bytes <= 1.2 * exact
    Path(images.location(3)).write_bytes(b"not an image")
    assert decoded_amount(images, SPEC).bytes <= 1.2 * exact


@pytest.mark.parametrize(
    ("asked", "needed", "gpu", "place"),
    [
        ("auto", 10, 40, "gpu"),
        ("auto", 10, 15, "ram"),
        ("auto", 10, None, "ram"),
        ("auto", 60, None, "none"),
        ("ram", 60, 40, "ram"),
        ("gpu", 30, 40, "gpu"),
        ("none", 1, 40, "none"),
    ],
)
def test_the_cache_goes_where_it_fits(asked, needed, gpu, place):
    plan = plan_cache(
        asked,
        needed_bytes=needed * GIB,
        free_ram_bytes=50 * GIB,
        free_gpu_bytes=None if gpu is None else gpu * GIB,
    )
    assert plan.place == place
    assert f"{needed}.0 GiB" in plan.why
    assert plan.capacity_bytes == {"none": 0, "ram": min(needed, 40) * GIB}.get(place, needed * GIB)


def test_a_gpu_too_small_for_the_cache_is_said_with_both_sizes():
    with pytest.raises(TrainingError, match="at most 8.0 GiB .* got 9.0 GiB .*cache='ram'"):
        plan_cache("gpu", needed_bytes=9 * GIB, free_ram_bytes=90 * GIB, free_gpu_bytes=10 * GIB)


def test_free_memory_is_shared_by_the_processes():
    alone, shared = free_ram_bytes(), free_ram_bytes(processes=4)
    assert 0 < shared < alone
    np.testing.assert_allclose(shared, alone / 4, rtol=0.2)  # other programs run meanwhile
