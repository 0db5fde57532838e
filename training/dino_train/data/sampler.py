"""Images of each process at each step: a pure function of the seed and the step."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int32, Int64

from dino_train.data.choices import Order

RUN_LENGTH = 32
"""Images that follow one another in the listing and are read soon after one another."""

Indices = Int32[np.ndarray, " images"] | Int64[np.ndarray, " images"]

_ORDER_STREAM = 0  # crops draw from stream 1 of the same seed


class StepSampler:
    """Batches of one process as lists of (epoch, image), from any step on.

    An epoch is a permutation of all images; every optimizer step takes the next stretch of it, and
    the images left over at the end of an epoch wait for another one. The stretch is cut into parts
    (gradient accumulation) and those into processes, so a step sees the same images whatever the
    number of parts and processes.

    In the quasi-random order (as FFCV has one) every place of a batch reads through runs of its
    own: neighbours in the listing, and so in a shard, which are shuffled among themselves and come
    in successive steps. The images of one step come from as many runs, which are drawn at random.

    Args:
        num_images: Images in the listing.
        batch_size_per_process: Images in one list.
        seed: Seed of the run, 0 or more.
        steps_per_epoch: Optimizer steps in an epoch.
        start_step: First optimizer step to yield.
        total_steps: Optimizer step to stop before.
        accumulation_steps: Lists that make one optimizer step.
        order: "quasi-random" reads a data set that is larger than memory in long stretches.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ValueError: An epoch has fewer images than its steps take, or a number is out of range.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size_per_process: int,
        seed: int,
        steps_per_epoch: int,
        start_step: int,
        total_steps: int,
        accumulation_steps: int = 1,
        order: Order = "random",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for name, value in (
            ("batch_size_per_process", batch_size_per_process),
            ("steps_per_epoch", steps_per_epoch),
            ("accumulation_steps", accumulation_steps),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to world_size - 1, got {rank} of {world_size}")
        if not 0 <= start_step <= total_steps:
            raise ValueError(f"start_step must be from 0 to {total_steps}, got {start_step!r}")
        batch_size = batch_size_per_process * accumulation_steps * world_size
        needed = steps_per_epoch * batch_size
        if needed > num_images:
            raise ValueError(
                f"{steps_per_epoch} steps of {batch_size} images need {needed} images in an epoch, "
                f"got {num_images}; lower the batch size or the steps of an epoch"
            )
        self.seed = seed
        self.order = order
        self._num_images = num_images
        self._batch_size = batch_size
        self._part_size = batch_size_per_process
        self._steps_per_epoch = steps_per_epoch
        self._steps = range(start_step, total_steps)
        self._accumulation_steps = accumulation_steps
        self._rank = rank
        self._world_size = world_size

    @property
    def epochs_left(self) -> float:
        """Epochs from the first step on."""
        return len(self._steps) / self._steps_per_epoch

    def __len__(self) -> int:
        return len(self._steps) * self._accumulation_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order, ordered_epoch = None, -1
        for step in self._steps:
            epoch, position = divmod(step, self._steps_per_epoch)
            if order is None or epoch != ordered_epoch:
                order, ordered_epoch = self._epoch_order(epoch), epoch
            for part in range(self._accumulation_steps):
                parts_before = position * self._accumulation_steps + part
                start = (parts_before * self._world_size + self._rank) * self._part_size
                yield [(epoch, int(image)) for image in order[start : start + self._part_size]]

    def _epoch_order(self, epoch: int) -> Indices:
        if self.order == "random":
            return epoch_order(self._num_images, seed=self.seed, epoch=epoch)
        runs = epoch_runs(self._num_images, seed=self.seed, epoch=epoch)
        by_place = runs[: self._steps_per_epoch * self._batch_size].reshape(self._batch_size, -1)
        return by_place.T.reshape(-1)


def epoch_order(num_images: int, *, seed: int, epoch: int) -> Indices:
    """All images of an epoch in random order."""
    order = np.arange(num_images, dtype=_dtype(num_images))
    _generator(seed, epoch).shuffle(order)
    return order


def epoch_runs(num_images: int, *, seed: int, epoch: int) -> Indices:
    """All images of an epoch: runs of neighbours in random order, each shuffled in itself."""
    rng = _generator(seed, epoch)
    images = np.arange(-(-num_images // RUN_LENGTH) * RUN_LENGTH, dtype=_dtype(num_images))
    runs = rng.permutation(images.reshape(-1, RUN_LENGTH))
    order = rng.permuted(runs, axis=1).reshape(-1)
    return order[order < num_images]


def _generator(seed: int, epoch: int) -> np.random.Generator:
    key = np.random.SeedSequence(seed, spawn_key=(_ORDER_STREAM, epoch))
    return np.random.Generator(np.random.PCG64(key))


def _dtype(num_images: int) -> type[np.int32 | np.int64]:
    return np.int32 if num_images + RUN_LENGTH <= np.iinfo(np.int32).max else np.int64
