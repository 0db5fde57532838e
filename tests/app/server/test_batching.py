"""Batches of what waits: shared, bounded, and given up in time."""

import asyncio
import threading
import time

import pytest

from dino_app.server.batching import Batcher, together
from dino_app.server.errors import BusyError
from dino_app.server.metrics import Metrics


def _batcher(run, **options):
    return Batcher(run, name="test", metrics=Metrics(), **options)


def test_free_workers_share_what_waits():
    sizes = []

    def run(items):
        sizes.append(len(items))
        time.sleep(0.05)
        return items

    async def main():
        batcher = _batcher(run, workers=2, max_batch=8)
        batcher.start()
        answers = await together([batcher(i) for i in range(8)])
        await batcher.stop()
        return answers

    assert asyncio.run(main()) == list(range(8))
    assert sizes == [4, 4]


def test_a_batch_waits_for_others_but_not_longer_than_it_may():
    sizes = []

    def run(items):
        sizes.append(len(items))
        return items

    async def main():
        batcher = _batcher(run, max_batch=2, max_wait_s=0.05)
        batcher.start()
        start = time.perf_counter()
        pair = asyncio.gather(batcher(1), batcher(2))
        await pair
        together_s = time.perf_counter() - start
        await batcher(3)
        alone_s = time.perf_counter() - start - together_s
        await batcher.stop()
        return together_s, alone_s

    together_s, alone_s = asyncio.run(main())
    assert sizes == [2, 1]
    assert together_s < 0.05 <= alone_s


def test_only_items_of_one_group_share_a_batch():
    batches = []

    def run(items):
        batches.append(items)
        return items

    async def main():
        batcher = _batcher(run, max_batch=8)
        batcher.start()
        await together([batcher(i, group=i % 2) for i in range(6)])
        await batcher.stop()

    asyncio.run(main())
    assert batches == [[0, 2, 4], [1, 3, 5]]


def test_a_stage_that_returns_too_few_answers_fails_them_and_goes_on():
    async def main():
        batcher = _batcher(lambda items: [])
        batcher.start()
        with pytest.raises(ValueError, match="zip"):
            await batcher(1)
        assert batcher.working
        await batcher.stop()

    asyncio.run(main())


def test_what_was_given_up_leaves_the_queue():
    async def main():
        gate = threading.Event()
        batcher = _batcher(lambda items: [gate.wait(5) for _ in items], max_waiting=1)
        batcher.start()
        running = asyncio.create_task(batcher(0))
        await asyncio.sleep(0.02)
        waiting = asyncio.create_task(batcher(1))
        await asyncio.sleep(0.02)
        with pytest.raises(BusyError):
            await batcher(2)
        waiting.cancel()
        await asyncio.sleep(0.02)
        assert batcher.depth == 0
        gate.set()
        assert await running
        await batcher.stop()

    asyncio.run(main())
