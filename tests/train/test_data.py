import json
import multiprocessing
import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dino_infer.errors import TrainingError
from dino_infer.images import ImageFailure, image_size
from dino_infer.listing import ImageList, list_images
from dino_infer.preprocess import IMAGENET_MEAN, IMAGENET_STD
from dino_train.crops import CropSpec, draw_crops
from dino_train.data import (
    Batch,
    CropDataset,
    FailureLog,
    StepSampler,
    build_loader,
    make_crops,
    sufficient_size,
)
from dino_train.sampler import epoch_order
from dino_train.worker_crops import make_worker_crops
from tests.train.photos import photo

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


@pytest.fixture
def images(image_folder) -> ImageList:
    return list_images(image_folder(count=10))


# The order of images


sizes = st.fixed_dictionaries(
    {
        "part": st.integers(1, 4),
        "accumulation": st.integers(1, 3),
        "world": st.integers(1, 3),
        "steps": st.integers(1, 4),
        "left_over": st.integers(0, 5),
    }
)


def steps_of(size: dict[str, int], *, world: int, accumulation: int, start: int = 0) -> list:
    """The set of images of every optimizer step, over all parts and processes."""
    batch_size = size["part"] * size["accumulation"] * size["world"]
    lists = [
        list(
            sampler(
                batch_size * size["steps"] + size["left_over"],
                batch_size=batch_size // world // accumulation,
                steps=size["steps"],
                start_step=start,
                accumulation_steps=accumulation,
                rank=rank,
                world_size=world,
            )
        )
        for rank in range(world)
    ]
    steps = 2 * size["steps"] - start
    return [
        [
            item
            for rank in lists
            for part in rank[step * accumulation :][:accumulation]
            for item in part
        ]
        for step in range(steps)
    ]


@given(size=sizes)
def test_every_epoch_takes_no_image_twice(size):
    steps = steps_of(size, world=size["world"], accumulation=size["accumulation"])
    batch_size = size["part"] * size["accumulation"] * size["world"]
    for epoch in range(2):
        of_epoch = steps[epoch * size["steps"] : (epoch + 1) * size["steps"]]
        items = [item for step in of_epoch for item in step]
        assert {item[0] for item in items} == {epoch}
        assert len({item[1] for item in items}) == len(items) == size["steps"] * batch_size


@given(size=sizes)
def test_processes_and_parts_do_not_change_what_a_step_sees(size):
    alone = steps_of(size, world=1, accumulation=1)
    shared = steps_of(size, world=size["world"], accumulation=size["accumulation"])
    assert [sorted(step) for step in alone] == [sorted(step) for step in shared]


@given(size=sizes, data=st.data())
def test_starting_at_a_step_equals_skipping_to_it(size, data):
    start = data.draw(st.integers(0, 2 * size["steps"]))
    counts = {"world": size["world"], "accumulation": size["accumulation"]}
    assert steps_of(size, **counts, start=start) == steps_of(size, **counts)[start:]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_order(50, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(orders[0], epoch_order(50, seed=0, epoch=0))


def test_the_length_is_the_number_of_lists():
    order = sampler(40, accumulation_steps=3, start_step=1)
    assert len(order) == len(list(order)) == 9


def test_an_order_of_a_million_images_is_small():
    assert epoch_order(1_000_000, seed=0, epoch=0).nbytes <= 4_000_000


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_images": 7}, "8 images in an epoch, got 7; lower the batch size"),
        ({"batch_size": 0}, "batch_size_per_process must be at least 1, got 0"),
        ({"rank": 1}, "rank must be from 0 to world_size - 1, got 1 of 1"),
        ({"start_step": 5}, "start_step must be from 0 to 4, got 5"),
    ],
)
def test_impossible_orders_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        sampler(**{"num_images": 10, **changes})


# Batches


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
        expected = make_worker_crops(image, params, SPEC)
        assert torch.equal(batch.payload.global_crops[:, row], expected.global_crops)
        assert torch.equal(batch.payload.local_crops[:, row], expected.local_crops)


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


def test_a_later_start_gives_the_later_batches(images):
    assert_same_batches(batches(images)[3:], batches(images, sampler={"start_step": 3}))


def test_loading_draws_no_global_random_number(images):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(images, workers=1)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


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


# Large photos


def test_a_picture_is_decoded_no_smaller_than_twice_what_its_crops_need():
    spec = CropSpec()
    for index in range(50):
        params = draw_crops(spec, seed=0, epoch=0, index=index, height=3000, width=4000)
        height, width = sufficient_size(params, spec, height=3000, width=4000)
        small = params.scaled(from_size=(3000, 4000), to_size=(height, width))
        assert (np.minimum(small.height, small.width) >= 2 * spec.sizes() - 1).all()
    params = draw_crops(spec, seed=0, epoch=0, index=0, height=375, width=500)
    assert sufficient_size(params, spec, height=375, width=500) is None


def test_crops_of_a_large_jpeg_show_what_crops_of_all_its_pixels_show(tmp_path):
    large = photo("coffee.png").resize((2400, 1600), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.jpg", quality=95)
    images = list_images(tmp_path)
    for executor in EXECUTORS:
        sample = CropDataset(images, SPEC, executor=executor, seed=0)[0, 0]
        if executor == "device":
            image, params = sample.made
            assert image.shape[0] <= 400  # 24 px from at least 530: an eighth or a quarter
            made = make_worker_crops(image, params, SPEC)
        else:
            made = sample.made
        params = draw_crops(SPEC, seed=0, epoch=0, index=0, height=1600, width=2400)
        whole = make_worker_crops(np.array(Image.open(tmp_path / "large.jpg")), params, SPEC)
        for few_pixels, all_pixels in (
            (made.global_crops, whole.global_crops),
            (made.local_crops, whole.local_crops),
        ):
            # Boxes are rounded to pixels of the smaller picture: up to a quarter pixel of a crop.
            assert (few_pixels.float() - all_pixels.float()).abs().mean() <= 4


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
def test_a_listing_without_one_readable_image_stops_at_the_first_batch(images, executor, tmp_path):
    spoil(images, *range(len(images)))
    batch = batches(images, executor)[0]
    assert len({failure.path for failure in batch.failures}) == 10
    with pytest.raises(TrainingError, match="none of the images can be read"):
        make_crops(batch, CPU)
    log = FailureLog(tmp_path / "failures.jsonl", num_images=10, max_bad_share=0.5)
    with pytest.raises(TrainingError, match="10 of 10 images"):
        log.add(batch.failures)


# The list of bad files


def failures(*names: str) -> list[ImageFailure]:
    return [ImageFailure(name, "corrupt", "damaged pixel data") for name in names]


def listed(path: Path) -> list[str]:
    return [json.loads(line)["path"] for line in path.read_text().splitlines()]


def test_each_bad_file_is_listed_once_with_its_reason(tmp_path):
    path = tmp_path / "failures.jsonl"
    log = FailureLog(path, num_images=100, max_bad_share=0.05)
    log.add([])
    assert not path.exists()
    log.add(failures("a.jpg", "b.jpg", "a.jpg"))
    log.add(failures("b.jpg", "\udcff.jpg"))
    assert (log.count, log.share) == (3, 0.03)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"path": "a.jpg", "kind": "corrupt", "reason": "damaged pixel data"}
    assert listed(path) == ["a.jpg", "b.jpg", "\udcff.jpg"]


def test_a_reopened_list_grows_without_doubles_and_counts_afresh(tmp_path):
    path = tmp_path / "failures.jsonl"
    FailureLog(path, num_images=10, max_bad_share=0.2).add(failures("a.jpg", "b.jpg"))
    again = FailureLog(path, num_images=10, max_bad_share=0.2)
    again.add(failures("b.jpg", "c.jpg"))
    assert again.count == 2
    assert listed(path) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_line_cut_off_by_a_crash_costs_only_itself(tmp_path):
    path = tmp_path / "failures.jsonl"
    FailureLog(path, num_images=10, max_bad_share=1.0).add(failures("a.jpg", "b.jpg"))
    path.write_bytes(path.read_bytes()[:-20])
    for _ in range(2):
        FailureLog(path, num_images=10, max_bad_share=1.0).add(failures("b.jpg", "a.jpg"))
    text = path.read_text()
    assert (text.count("a.jpg"), text.count("b.jpg")) == (1, 2)
    assert json.loads(text.splitlines()[-1])["path"] == "b.jpg"


def test_processes_that_share_a_list_do_not_repeat_each_other(tmp_path):
    path = tmp_path / "failures.jsonl"
    one, other = (FailureLog(path, num_images=10, max_bad_share=1.0) for _ in range(2))
    one.add(failures("a.jpg"))
    other.add(failures("a.jpg", "b.jpg"))
    one.add(failures("b.jpg", "c.jpg"))
    assert listed(path) == ["a.jpg", "b.jpg", "c.jpg"]


def test_too_many_bad_files_stop_the_run_and_say_what_to_do(tmp_path):
    log = FailureLog(tmp_path / "failures.jsonl", num_images=20, max_bad_share=0.2)
    log.add(failures("a.jpg", "b.jpg", "c.jpg", "d.jpg"))
    with pytest.raises(TrainingError) as caught:
        log.add(failures("e.jpg"))
    message = str(caught.value)
    for part in ("5 of 20", "25.0%", "20.0%", "'a.jpg'", "'c.jpg'", "run.max_bad_share"):
        assert part in message
    assert "d.jpg" not in message
    assert listed(tmp_path / "failures.jsonl")[-1] == "e.jpg"


def test_a_share_out_of_range_is_refused(tmp_path):
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match="max_bad_share"):
            FailureLog(tmp_path / "f.jsonl", num_images=3, max_bad_share=share)
