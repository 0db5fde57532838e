"""Prefetching of members of shards from the disk."""

from collections.abc import Sequence

import numpy as np

from dino_infer.sources.image_list import ImageList
from dino_train.data.choices import Order
from dino_train.data.sampler import RUN_LENGTH


class ReadAhead:
    """Has the system fetch what a batch will read, while its first images are decoded.

    In the quasi-random order that is whole runs, once an epoch: few and large requests.
    """

    def __init__(self, images: ImageList, order: Order) -> None:
        self._images = images
        self._run_length = RUN_LENGTH if order == "quasi-random" else 1
        self._epoch = -1
        self._fetched: set[int] = set()  # runs of this epoch

    def expect(self, keys: Sequence[tuple[int, int]]) -> None:
        """Announce a batch of (epoch, image), all of one epoch, that is about to be read."""
        if self._epoch != keys[0][0]:
            self._epoch, self._fetched = keys[0][0], set()
        runs = {image // self._run_length for _, image in keys} - self._fetched
        if self._run_length > 1:
            self._fetched |= runs
        starts = np.fromiter(runs, dtype=np.int64)[:, None] * self._run_length
        indices = (starts + np.arange(self._run_length)).reshape(-1)
        self._images.expect(indices[indices < len(self._images)])
