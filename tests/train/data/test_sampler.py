"""The order of images: complete, repeatable, the same for any number of processes."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from dino_train.data.sampler import RUN_LENGTH, StepSampler, epoch_order, epoch_runs


def sampler(num_images: int, *, batch_size: int = 4, steps: int = 2, **changes) -> StepSampler:
    settings = {"seed": 5, "steps_per_epoch": steps, "start_step": 0, "total_steps": 2 * steps}
    return StepSampler(num_images, batch_size_per_process=batch_size, **{**settings, **changes})


sizes = st.fixed_dictionaries(
    {
        "part": st.integers(1, 4),
        "accumulation": st.integers(1, 3),
        "world": st.integers(1, 3),
        "steps": st.integers(1, 4),
        "left_over": st.integers(0, 5),
        "order": st.sampled_from(["random", "quasi-random"]),
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
                order=size["order"],
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


@settings(deadline=None)  # the machine may be busy
@given(size=sizes)
def test_every_epoch_takes_no_image_twice(size):
    steps = steps_of(size, world=size["world"], accumulation=size["accumulation"])
    batch_size = size["part"] * size["accumulation"] * size["world"]
    for epoch in range(2):
        of_epoch = steps[epoch * size["steps"] : (epoch + 1) * size["steps"]]
        items = [item for step in of_epoch for item in step]
        assert {item[0] for item in items} == {epoch}
        assert len({item[1] for item in items}) == len(items) == size["steps"] * batch_size


@settings(deadline=None)  # the machine may be busy
@given(size=sizes)
def test_processes_and_parts_do_not_change_what_a_step_sees(size):
    alone = steps_of(size, world=1, accumulation=1)
    shared = steps_of(size, world=size["world"], accumulation=size["accumulation"])
    assert [sorted(step) for step in alone] == [sorted(step) for step in shared]


@settings(deadline=None)  # the machine may be busy
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


@given(num_images=st.integers(1, 5 * RUN_LENGTH), seed=st.integers(0, 9))
def test_runs_hold_every_image_once(num_images, seed):
    order = epoch_runs(num_images, seed=seed, epoch=0)
    assert sorted(order) == list(range(num_images))


def test_quasi_random_places_read_through_runs_and_steps_mix_them():
    batch_size, steps = 16, 4 * RUN_LENGTH
    drawn = sampler(
        batch_size * steps + 5, batch_size=batch_size, steps=steps, order="quasi-random"
    )
    for epoch in np.array(list(drawn))[:, :, 1].reshape(2, steps, batch_size):
        runs = epoch // RUN_LENGTH
        assert all(len(set(step)) == batch_size for step in runs.tolist())
        changes = np.count_nonzero(np.diff(runs, axis=0), axis=0)
        assert changes.max() <= steps // RUN_LENGTH + 1  # and not at every step
        assert np.median(np.abs(np.diff(runs[0]))) > 3  # neighbours in a step lie far apart


def test_quasi_random_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_runs(200, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


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
