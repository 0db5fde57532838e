"""Batches on their way to the device, with good files and bad ones."""

import gc
import multiprocessing
import os
import pickle
import signal
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dino_infer.errors import TrainingError
from dino_infer.images.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dino_infer.images.read import image_size
from dino_infer.sources.image_list import ImageList, list_images
from dino_train.crops.in_workers import WorkerCrops, empty_crops, write_crops
from dino_train.crops.parameters import CropParams, draw_batch
from dino_train.crops.spec import CropSpec
from dino_train.data.dataset import Batch, CropDataset
from dino_train.data.decode_sizes import box_sides, least_box_sides, sufficient_sizes
from dino_train.data.failures import FailureLog
from dino_train.data.loader import build_loader, device_batches, make_crops, start_worker, unchanged
from dino_train.data.ram_cache import RamCache
from dino_train.data.sampler import StepSampler
from tests.train.photos import draw_crops, photo

CPU = torch.device("cpu")
SPEC = CropSpec(global_crops_size=24, local_crops_size=16, local_crops_number=3)
EXECUTORS = ["worker", "device"]


def sampler(num_images: int, *, batch_size: int = 4, steps: int = 2, **changes) -> StepSampler:
    settings = {"seed": 5, "steps_per_epoch": steps, "start_step": 0, "total_steps": 2 * steps}
    return StepSampler(num_images, batch_size_per_process=batch_size, **{**settings, **changes})


def batches(images: ImageList, executor: str = "worker", *, workers: int = 0, **options):
    order = sampler(len(images), **options.pop("sampler", {}))
    loader = build_loader(
        images, SPEC, executor=executor, sampler=order, workers=workers, **options
    )
    return list(loader)


def assert_same_batches(ones: list[Batch], others: list[Batch]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert one.failures == other.failures
        for crops, other_crops in zip(
            make_crops(one, CPU).groups(), make_crops(other, CPU).groups(), strict=True
        ):
            assert torch.equal(crops, other_crops)


def cropped(image: np.ndarray, params: CropParams, spec: CropSpec = SPEC) -> WorkerCrops:
    """The crops of one image, as a batch of one."""
    made = empty_crops(spec, batch_size=1)
    write_crops(made, 0, image, params, spec)
    return made


@pytest.fixture
def images(image_folder) -> ImageList:
    return list_images(image_folder(count=10))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_crops_have_the_documented_shapes_and_are_normalised(images, executor):
    crops = make_crops(batches(images, executor)[0], CPU)
    assert crops.global_crops.shape == (2, 4, 3, 24, 24)
    assert crops.local_crops.shape == (3, 4, 3, 16, 16)
    assert all(group.is_contiguous() for group in crops.groups())
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (IMAGENET_MEAN, IMAGENET_STD))
    for group in crops.groups():
        assert group.dtype == torch.float32
        shares = group * std + mean
        assert shares.min() >= -1e-5 and shares.max() <= 1 + 1e-5


def test_a_row_shows_the_crops_drawn_for_its_image_and_epoch(images):
    batch = batches(images)[-1]
    for row, index in enumerate(batch.indices.tolist()):
        data = images.read(index)
        height, width = image_size(data, "it")
        params = draw_crops(SPEC, seed=5, epoch=1, index=index, height=height, width=width)
        image = np.array(Image.open(images.location(index)))
        expected = cropped(image, params)
        assert torch.equal(batch.payload.global_crops[:, row], expected.global_crops[:, 0])
        assert torch.equal(batch.payload.local_crops[:, row], expected.local_crops[:, 0])


def test_both_executors_give_the_same_crops(images):
    for one, other in zip(batches(images, "worker"), batches(images, "device"), strict=True):
        assert torch.equal(one.indices, other.indices)
        both = zip(make_crops(one, CPU).groups(), make_crops(other, CPU).groups(), strict=True)
        for by_worker, by_device in both:
            levels = (by_worker - by_device).abs() * 255 * max(IMAGENET_STD)
            assert levels.mean() <= 1.0  # two roundings apart; the pictures are pure noise


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_number_of_workers_changes_nothing(images, executor):
    here = batches(images, executor)
    for workers in (1, 2):
        assert_same_batches(here, batches(images, executor, workers=workers))


def test_workers_may_be_spawned(images):
    spawned = batches(images, workers=1, start_method="spawn", sampler={"total_steps": 1})
    assert_same_batches(batches(images, sampler={"total_steps": 1}), spawned)


class Collecting(CropDataset):
    """Looks for garbage before each batch."""

    def __getitems__(self, keys):
        gc.collect()
        return super().__getitems__(keys)


def test_workers_leave_the_garbage_of_the_main_process_alone(images, tmp_path):
    class Garbage:
        def __init__(self):
            self.cycle, self.home = self, os.getpid()

        def __del__(self):
            if os.getpid() != self.home:
                (tmp_path / "collected").touch()

    dataset = Collecting(images, SPEC, executor="device", seed=0)
    gc.disable()
    try:
        Garbage()
        loader = DataLoader(
            dataset,
            batch_sampler=sampler(len(images)),
            collate_fn=unchanged,
            num_workers=1,
            worker_init_fn=start_worker,
            multiprocessing_context="fork",
        )
        assert len(list(loader)) == 4
    finally:
        gc.enable()
    assert not (tmp_path / "collected").exists()


def test_a_later_start_gives_the_later_batches(images):
    assert_same_batches(batches(images)[3:], batches(images, sampler={"start_step": 3}))


def test_loading_draws_no_global_random_number(images):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(images, workers=1)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


def test_copying_ahead_changes_no_batch(images):
    loaded = batches(images)
    assert_same_batches(loaded, list(device_batches(iter(loaded), CPU)))


def test_images_without_local_crops(images):
    order = sampler(len(images))
    spec = CropSpec(global_crops_size=24, local_crops_number=0)
    for executor in EXECUTORS:
        batch = next(iter(build_loader(images, spec, executor=executor, sampler=order, workers=0)))
        crops = make_crops(batch, CPU)
        assert crops.local_crops is None
        assert len(crops.groups()) == 1


def test_a_data_set_pickles_small(images):
    assert len(pickle.dumps(CropDataset(images, SPEC, executor="worker", seed=0))) < 10_000


def test_an_image_of_a_long_listing_costs_no_more_memory(images):
    dataset = CropDataset(images.select([0] * 300_000), SPEC, executor="device", seed=0)
    dataset.__getitems__([(0, 1)])
    tracemalloc.start()
    dataset.__getitems__([(0, 2)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000


def test_a_negative_number_of_workers_is_refused(images):
    with pytest.raises(ValueError, match="workers must be 0 or more, got -1"):
        build_loader(images, SPEC, executor="worker", sampler=sampler(10), workers=-1)


def test_ctrl_c_leaves_the_workers_to_the_main_process(images):
    order = sampler(len(images), steps=1, total_steps=30)
    loader = build_loader(images, SPEC, executor="worker", sampler=order, workers=1, prefetch=1)
    iterator = iter(loader)
    next(iterator)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert sum(1 for _ in iterator) == 29


@pytest.fixture
def shards(images, tmp_path) -> ImageList:
    """The images in two shards of 50, each image five times or more."""
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for member in range(50):
                name = f"{member:02}.png"
                tar.add(images.location((member + 3 * shard) % len(images)), arcname=name)
    return list_images([tmp_path / "0.tar", tmp_path / "1.tar"])


@pytest.mark.parametrize("order", ["random", "quasi-random"])
def test_members_of_shards_are_fetched_ahead_once_a_run(shards, order, monkeypatch):
    fetched = []
    monkeypatch.setattr(ImageList, "expect", lambda _, indices: fetched.append(indices.tolist()))
    changes = {"steps": 20, "total_steps": 21, "order": order}
    made = batches(shards, "device", sampler=changes)
    expected = [batch.indices.tolist() for batch in made]
    if order == "random":
        assert [sorted(batch) for batch in expected] == [sorted(indices) for indices in fetched]
        return
    so_far = set()
    for batch, indices in zip(expected[:20], fetched, strict=False):
        assert so_far.isdisjoint(indices)
        so_far.update(indices)
        assert so_far >= set(batch)
    assert fetched[20]  # the next epoch fetches anew


def test_what_a_cache_keeps_is_not_fetched_again(images, monkeypatch):
    monkeypatch.setattr(ImageList, "expect", lambda *_: pytest.fail("fetched"))
    batches(images, "device", cache=RamCache(len(images), capacity_bytes=10**6))


# Large photos


def test_a_picture_is_decoded_no_smaller_than_its_crops_need():
    spec, sizes = CropSpec(), np.array([[3000, 4000], [375, 500]])
    for index in range(50):
        params = draw_batch(spec, seed=0, keys=[(0, index), (0, index)], sizes=sizes)
        (height, width), of_small = sufficient_sizes(box_sides(params), spec, sizes)
        small = params[0].scaled(from_size=(3000, 4000), to_size=(height, width))
        assert (np.minimum(small.height, small.width) >= np.array(spec.sizes()) - 1).all()
        assert of_small is None


@pytest.mark.parametrize("size", [(3000, 4000), (2000, 40), (375, 500), (9, 9)])
def test_no_box_is_smaller_than_the_least(size):
    spec, sizes = CropSpec(), np.array([size] * 400)
    params = draw_batch(spec, seed=0, keys=[(0, index) for index in range(400)], sizes=sizes)
    least = least_box_sides(spec, sizes)
    assert (box_sides(params) >= least).all()
    assert box_sides(params).min() <= 1.3 * least.min() + 1  # and it is not far below


def test_crops_of_a_large_jpeg_show_what_crops_of_all_its_pixels_show(tmp_path):
    large = photo("coffee.png").resize((2400, 1600), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=95)
    images = list_images(tmp_path)
    for executor in EXECUTORS:
        made = CropDataset(images, SPEC, executor=executor, seed=0)[0, 0].payload
        if executor == "device":
            image = made.images.image(0).numpy()
            assert image.shape[0] <= 400  # 24 px from at least 530: an eighth or a quarter
            made = cropped(image, made.params[0])
        params = draw_crops(SPEC, seed=0, epoch=0, index=0, height=1600, width=2400)
        whole = cropped(np.array(Image.open(tmp_path / "large.jpg")), params)
        for few_pixels, all_pixels in (
            (made.global_crops, whole.global_crops),
            (made.local_crops, whole.local_crops),
        ):
            # Boxes are rounded to pixels of the smaller picture: up to a quarter pixel of a crop.
            assert (few_pixels.float() - all_pixels.float()).abs().mean() <= 4


def test_a_large_photo_taken_sideways_gives_the_crops_of_the_upright_one(tmp_path):
    upright = photo("coffee.png").resize((2400, 1600), Image.Resampling.BICUBIC)
    sideways_exif = Image.Exif()
    sideways_exif[0x0112] = 6  # turn right by a quarter to see it upright
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    for name, picture, exif in (("0.jpg", upright, b""), ("1.jpg", stored, sideways_exif)):
        picture.save(tmp_path / name, quality=95, subsampling=0, exif=exif)
    images = list_images(tmp_path)
    one, other = (
        CropDataset(images.select([index]), SPEC, executor="worker", seed=0)[0, 0].payload
        for index in range(2)
    )
    difference = one.global_crops.float() - other.global_crops.float()
    assert difference.abs().mean() <= 1  # JPEG blocks of a turned picture differ a little


# Bad files


def spoil(images: ImageList, *indices: int) -> None:
    for index in indices:
        Path(images.location(index)).write_bytes(b"not an image")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_next_readable_image_takes_the_place_of_a_bad_one(images, executor):
    whole = batches(images, executor, sampler={"steps": 1, "batch_size": 10, "total_steps": 1})[0]
    spoil(images, 3, 4, 9)
    holed = batches(images, executor, sampler={"steps": 1, "batch_size": 10, "total_steps": 1})[0]
    substitutes = {3: 5, 4: 5, 9: 0}
    asked = whole.indices.tolist()
    assert holed.indices.tolist() == [substitutes.get(index, index) for index in asked]
    whole_crops, holed_crops = (make_crops(batch, CPU).global_crops for batch in (whole, holed))
    for row, index in enumerate(holed.indices.tolist()):
        torch.testing.assert_close(holed_crops[:, row], whole_crops[:, asked.index(index)])
    bad = {images.location(index) for index in (3, 4, 9)}
    assert {failure.path for failure in holed.failures} == bad
    assert {failure.kind for failure in holed.failures} == {"unsupported"}


def test_failures_do_not_depend_on_the_workers(images):
    spoil(images, 2, 3)
    here = batches(images)
    assert any(batch.failures for batch in here)
    assert_same_batches(here, batches(images, workers=2))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_image_that_fails_behind_its_header_is_replaced_by_a_larger_one(executor, tmp_path):
    for number, side in enumerate((40, 60, 30)):
        photo("coffee.png").resize((side, side)).save(tmp_path / f"{number}.jpg", quality=90)
    images, keys = list_images(tmp_path), [(0, 2), (0, 0), (0, 1)]
    whole = CropDataset(images, SPEC, executor=executor, seed=0).__getitems__(keys)
    cut_short = Path(images.location(0))
    cut_short.write_bytes(cut_short.read_bytes()[:-200])
    holed = CropDataset(images, SPEC, executor=executor, seed=0).__getitems__(keys)
    assert holed.indices.tolist() == [2, 1, 1]
    assert [failure.kind for failure in holed.failures] == ["corrupt"]
    of_whole, of_holed = (make_crops(batch, CPU).global_crops for batch in (whole, holed))
    torch.testing.assert_close(of_holed[:, [0, 2]], of_whole[:, [0, 2]], atol=1e-4, rtol=0)
    torch.testing.assert_close(of_holed[:, 1], of_holed[:, 2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_listing_without_one_readable_image_stops_at_the_first_batch(images, executor, tmp_path):
    spoil(images, *range(len(images)))
    batch = batches(images, executor)[0]
    assert len({failure.path for failure in batch.failures}) == 10
    with pytest.raises(TrainingError, match="none of the images can be read"):
        make_crops(batch, CPU)
    log = FailureLog(tmp_path / "failures.jsonl", num_images=10, max_bad_share=0.5)
    with pytest.raises(TrainingError, match="10 of 10 images"):
        log.add(batch.failures)
