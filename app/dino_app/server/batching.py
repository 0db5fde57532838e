"""Stages of work with a bounded queue each: items that wait together are done together."""

import asyncio
import heapq
import time
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dino_app.server.errors import BusyError
from dino_app.server.metrics import Metrics

Item = TypeVar("Item")
Answer = TypeVar("Answer")

FIRST_GUESS_S = 0.05  # of the time for one item, until one was measured
MEMORY = 0.9  # how much of the measured time the next measurement leaves standing


@dataclass(frozen=True, kw_only=True)
class _Waiting(Generic[Item]):
    item: Item
    group: Hashable
    since: float


class Batcher(Generic[Item, Answer]):
    """Hands items from coroutines to threads in batches, and the answers back.

    A batch starts when a thread is free and either ``max_batch`` items wait, or the first one has
    waited ``max_wait_s``, or no more can come. Free threads share what waits; where several are
    free the first of them works, so a client alone always meets the same warm thread. A coroutine
    that is cancelled, because its client has gone or its time is up, leaves the queue at once.

    Args:
        run: Answers of a batch, in its order. What it raises, every item of the batch gets.
        name: Name of the stage in metrics.
        metrics: Metrics that count it.
        workers: Threads.
        max_batch: Items done at once.
        max_wait_s: Seconds that the first item of a batch waits for others.
        more_may_come: Test if there is anything to wait for; by default there always is.
        max_waiting: Items that may wait.
        initializer: Function that is called in each thread first.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Sequence[Answer]],
        *,
        name: str,
        metrics: Metrics,
        workers: int = 1,
        max_batch: int = 1,
        max_wait_s: float = 0,
        more_may_come: Callable[[], bool] = lambda: True,
        max_waiting: int = 64,
        initializer: Callable[[], object] | None = None,
    ) -> None:
        self._run = run
        self.name = name
        self._metrics = metrics
        self._workers = workers
        self._free = list(range(workers))  # a heap of the threads without work
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._more_may_come = more_may_come
        self._max_waiting = max_waiting
        self._initializer = initializer
        self._waiting: dict[asyncio.Future[Answer], _Waiting[Item]] = {}
        self._changed = asyncio.Event()  # an item has come, or a thread is free
        self._dispatching: asyncio.Task[None] | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._threads: list[ThreadPoolExecutor] = []
        self._item_s = FIRST_GUESS_S

    def start(self) -> None:
        """Begin to work; called in the event loop."""
        self._threads = [
            ThreadPoolExecutor(1, self.name, initializer=self._initializer)
            for _ in range(self._workers)
        ]
        self._dispatching = asyncio.create_task(self._dispatch())

    async def stop(self) -> None:
        """Finish what runs in threads, and end."""
        if self._dispatching is not None:
            self._dispatching.cancel()
            await asyncio.gather(self._dispatching, *self._answering, return_exceptions=True)
        for thread in self._threads:
            await asyncio.to_thread(thread.shutdown)

    @property
    def working(self) -> bool:
        """True if it still takes work."""
        return self._dispatching is not None and not self._dispatching.done()

    @property
    def running(self) -> int:
        """Batches in work."""
        return self._workers - len(self._free)

    @property
    def depth(self) -> int:
        """Items that wait."""
        return len(self._waiting)

    async def __call__(self, item: Item, *, group: Hashable = None) -> Answer:
        """The answer to one item.

        Args:
            item: The item.
            group: Key of its batch: only items of equal groups share a batch.

        Raises:
            BusyError: As many items wait as may.
        """
        self.check_space(1)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[future] = _Waiting(item=item, group=group, since=time.perf_counter())
        self._count_waiting()
        self._changed.set()
        try:
            return await future
        finally:
            if self._waiting.pop(future, None) is not None:
                self._count_waiting()
            del future  # its error leads back to this frame: the circle would keep the item

    def check_space(self, items: int) -> None:
        """Refuse what would not fit into the queue.

        Raises:
            BusyError: It would not.
        """
        if len(self._waiting) + items > self._max_waiting:
            seconds = len(self._waiting) * self._item_s / self._workers
            message = f"{len(self._waiting)} wait for stage {self.name!r} already; try again later"
            raise BusyError("queue_full", message, retry_after_s=seconds)

    async def _dispatch(self) -> None:
        while True:
            batch = await self._next_batch()
            task = asyncio.create_task(self._answer(batch, heapq.heappop(self._free)))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _next_batch(self) -> dict[asyncio.Future[Answer], _Waiting[Item]]:
        while True:
            if not (self._waiting and self._free):
                await self._change()
                continue
            first = next(iter(self._waiting.values()))
            alike = [f for f, waiting in self._waiting.items() if waiting.group == first.group]
            left = first.since + self._max_wait_s - time.perf_counter()
            if len(alike) < self._max_batch and left > 0 and self._more_may_come():
                await self._change(timeout=left)
                continue
            share = min(self._max_batch, -(-len(alike) // len(self._free)))
            batch = {future: self._waiting.pop(future) for future in alike[:share]}
            self._count_waiting()
            return batch

    async def _change(self, timeout: float | None = None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _answer(self, batch: dict[asyncio.Future[Answer], _Waiting[Item]], by: int) -> None:
        start = time.perf_counter()
        for waiting in batch.values():
            self._metrics.queue_seconds.labels(self.name).observe(start - waiting.since)
        items = [waiting.item for waiting in batch.values()]
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._threads[by], self._run, items)
            answered = list(zip(batch, answers, strict=True))
        except Exception as error:  # each waiting request answers it in its own way
            _fail(batch, error)
        else:
            for future, answer in answered:
                if not future.done():
                    future.set_result(answer)
        finally:
            heapq.heappush(self._free, by)
            self._changed.set()
            batch.clear()  # an error of theirs leads back to this frame
        self._count_batch(len(items), time.perf_counter() - start)

    def _count_waiting(self) -> None:
        self._metrics.queue_depth.labels(self.name).set(len(self._waiting))

    def _count_batch(self, size: int, seconds: float) -> None:
        self._item_s = MEMORY * self._item_s + (1 - MEMORY) * seconds / size
        self._metrics.stage_seconds.labels(self.name).observe(seconds)
        self._metrics.batch_size.labels(self.name).observe(size)


def _fail(futures: Iterable[asyncio.Future[Any]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


def call_all(calls: list[Callable[[], Any]]) -> list[Any]:
    """Return the result of each call: a stage whose items are the work itself."""
    return [call() for call in calls]


async def aside(call: Callable[[], Answer], *, is_quick: bool) -> Answer:
    """The answer of a call, made in a thread where it would keep other requests waiting."""
    return call() if is_quick else await asyncio.to_thread(call)


async def together(work: Sequence[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """All answers in order; when one fails the others are given up."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        while tasks:  # none stays in this frame, to which the error of one leads back
            tasks.pop().cancel()


async def to_the_end(work: Coroutine[Any, Any, Answer]) -> Answer:
    """The answer of work that goes on when its request is given up."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        return await asyncio.shield(task)
    finally:
        del task  # its error leads back to this frame
