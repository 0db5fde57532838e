"""Writes that are asked for twice with one ``Idempotency-Key`` are done once."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Header, Request

from dino_app.server.errors import ApiError

MAX_REMEMBERED = 1000
REMEMBERED_S = 3600


class Idempotency:
    """Answers by key, for an hour; failures are forgotten, so that they can be tried again."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, tuple[bytes, float, asyncio.Future[Any]]] = OrderedDict()

    async def once(self, key: str, body: bytes, work: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a write, done now or before.

        Raises:
            ApiError: The key came with another body.
        """
        self._forget_old()
        if key in self._answers:
            before, _, future = self._answers[key]
            if before != body:
                message = "this Idempotency-Key was used for another request"
                raise ApiError(409, "idempotency_conflict", message, param="Idempotency-Key")
        else:
            future = asyncio.ensure_future(work())
            self._answers[key] = body, time.monotonic(), future
            future.add_done_callback(lambda done: self._drop_failed(key, done))
        try:
            return await asyncio.shield(future)
        finally:
            del future  # its error leads back to this frame

    def _drop_failed(self, key: str, done: "asyncio.Future[Any]") -> None:
        if done.cancelled() or done.exception() is not None:
            self._answers.pop(key, None)

    def _forget_old(self) -> None:
        oldest = time.monotonic() - REMEMBERED_S
        while self._answers:
            _, since, future = next(iter(self._answers.values()))
            fits = since > oldest and len(self._answers) < MAX_REMEMBERED
            if fits or not future.done():
                return
            self._answers.popitem(last=False)


class Once:
    """Does the write of one request, or gives the answer it had before."""

    def __init__(self, request: Request, key: str | None) -> None:
        self._request, self._key = request, key

    async def __call__(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """The answer of ``work``."""
        if self._key is None:
            return await work()
        scope = self._request.scope
        client = scope["state"].get("client")
        key = f"{client} {scope['method']} {scope['raw_path'].decode('latin1')} {self._key}"
        data = await self._request.body()
        body = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
        idempotency: Idempotency = self._request.app.state.service.idempotency
        return await idempotency.once(key, body, work)


async def once_of(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key", min_length=1, max_length=255, pattern=r"^[!-~]+$",
            description="Makes the request safe to repeat: it is done once.",
        ),
    ] = None,
) -> Once:  # fmt: skip
    """Return the ``Once`` that does the write of a request."""
    return Once(request, key)


Write = Annotated[Once, Depends(once_of)]
