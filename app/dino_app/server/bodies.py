"""The body of one request: counted as it arrives, within its time, and given up when it is over."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dino_app.server.errors import ApiError, BusyError
from dino_app.server.request_images import FORM, json_values, too_many_values
from dino_app.server.settings import Settings

SENT_AT_ONCE = 1 << 18  # bytes
SENDING_S = 300  # for an answer of another application to reach a slow client
EVENTS = b"text/event-stream"


@dataclass
class Load:
    """Load of the server: the work in progress, and whether more is welcome."""

    requests: int = 0
    streams: int = 0
    """Answers that go on as long as a page is open."""
    body_bytes: int = 0
    """Bytes of requests, and of answers that clients have not taken yet."""
    draining: bool = False


class Body:
    """The body of one request; once it is there, it watches for the client to go.

    What is beyond a limit ends the work on the request, whichever application is at it and
    whatever that would make of an error.

    Args:
        headers: Headers of the request.
        receive: Source of the body.
        settings: Limits.
        load: Counter of the bytes of all bodies.
        largest_mb: Megabytes that the body may have.
        is_api: Answers are complete within their time, and work ends when the client goes; other
            applications may stream and have their own ways to notice.
    """

    clock: asyncio.Timeout
    """Set once for the body and again for the answer."""

    def __init__(
        self, headers: Headers, receive: Receive, settings: Settings, load: Load, *,
        largest_mb: float, is_api: bool,
    ) -> None:  # fmt: skip
        self._receive, self._settings, self._load = receive, settings, load
        self._is_api = is_api
        self._largest_mb, self._largest = largest_mb, int(1e6 * largest_mb)
        self._is_form = headers.get("content-type", "").lower().startswith(FORM)
        self.bytes = self._values = 0
        self._watch: asyncio.Task[None] | None = None
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self._largest:
            raise self._too_large()
        self._has_none = length == "0" and "transfer-encoding" not in headers
        self.complete = False
        self._gone = asyncio.Event()
        self._failure: HTTPException | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_stream = False

    async def run(self, app: ASGIApp, scope: Scope, send: Send) -> None:
        """Answer the request.

        Raises:
            ApiError: The body or the answer is beyond a limit.
            TimeoutError: The body or the answer takes too long.
        """
        self._task = task = asyncio.current_task()
        assert task is not None  # it runs in a loop
        self._load.requests += 1
        self._reschedule(self._settings.body_timeout_s)
        if self._has_none:
            self._complete()

        async def send_timed(message: Message) -> None:
            if message["type"] == "http.response.start" and not self._is_api:
                await self._begin_answer(message)
            held = len(message.get("body", b""))
            self._load.body_bytes += held
            try:
                for piece in _in_pieces(message):
                    await send(piece)  # waits until the client has taken most of the one before
                    await asyncio.sleep(0)  # others have their turn
            finally:
                self._load.body_bytes -= held

        try:
            await app(scope, self._next, send_timed)
        except asyncio.CancelledError:
            if self._failure is not None:
                task.uncancel()
                raise self._failure from None
            if not (self._is_api and self._gone.is_set()):
                raise
            task.uncancel()
        finally:
            if self._watch is not None:
                self._watch.cancel()
            self._release()

    def _release(self) -> None:
        """Stop counting the request and its bytes as work."""
        self._load.body_bytes -= self.bytes
        if self._is_stream:
            self._load.streams -= 1
        else:
            self._load.requests -= 1

    async def _begin_answer(self, start: Message) -> None:
        """Another application begins its answer, which may be a stream without end."""
        kind = next((value for name, value in start["headers"] if name == b"content-type"), b"")
        if not kind.startswith(EVENTS):
            self._reschedule(SENDING_S)
            return
        if self._load.streams >= self._settings.max_requests:
            await self._end(BusyError("too_many_pages", f"{self._load.streams} pages are open"))
        self.clock.reschedule(None)
        self._load.requests -= 1
        self._load.streams += 1
        self._is_stream = True

    async def _next(self) -> Message:
        if self._has_none:
            self._has_none = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self.complete:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            if (error := self._count(message.get("body", b""))) is not None:
                await self._end(error)
            if not message.get("more_body", False):
                self._complete()
        return message

    def _count(self, part: bytes) -> ApiError | None:
        self.bytes += len(part)
        self._load.body_bytes += len(part)
        if self.bytes > self._largest:
            return self._too_large()
        if (busy := too_many_bytes(self._load, self._settings)) is not None:
            return busy
        if not self._is_form:
            self._values += json_values(part)
        return too_many_values(self._values)

    async def _end(self, error: HTTPException) -> NoReturn:
        """Give the request up; an error raised here could be caught by the application."""
        assert self._task is not None  # only ``run`` leads here
        self._failure = error
        self._task.cancel()
        await asyncio.Event().wait()
        raise AssertionError("the task is cancelled")

    def _complete(self) -> None:
        self.complete = True
        self._reschedule(self._settings.request_timeout_s)
        self._watch = asyncio.create_task(self._client_goes())

    def _reschedule(self, seconds: float) -> None:
        if not self._is_stream:
            self.clock.reschedule(asyncio.get_running_loop().time() + seconds)

    async def _client_goes(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        if self._is_api and self._task is not None:
            self._task.cancel()

    def _too_large(self) -> ApiError:
        message = f"a body may have {self._largest_mb:g} MB, this one has more"
        return ApiError(413, "body_too_large", message)


def _in_pieces(message: Message) -> Iterator[Message]:
    """Split a large part of an answer.

    Uvicorn takes any message as a whole, and would hold it for a client that does not read after
    the request is over, so that no time limit is left.
    """
    body = message.get("body", b"")
    if message["type"] != "http.response.body" or len(body) <= SENT_AT_ONCE:
        yield message
        return
    for start in range(0, len(body), SENT_AT_ONCE):
        piece = body[start : start + SENT_AT_ONCE]
        more = start + len(piece) < len(body) or message.get("more_body", False)
        yield {**message, "body": piece, "more_body": more}


def too_many_bytes(load: Load, settings: Settings) -> BusyError | None:
    """The answer where bodies and answers together fill the memory they may have."""
    if load.body_bytes <= 1e6 * settings.max_bodies_mb:
        return None
    return BusyError("too_many_bytes", "too many bytes are in work; try again later")
