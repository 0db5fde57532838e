"""Every request on its way in and out: identity, admission, byte and time limits, the log."""

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dino_app.server.auth import Door
from dino_app.server.errors import ApiError, BusyError, error_response
from dino_app.server.metrics import Metrics
from dino_app.server.settings import Settings

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
UNGUARDED = ("/livez",)
MAX_HEADER_BYTES = 32 << 10
UNREAD_BYTES = 1 << 16  # of a refused body, thrown away so that the client can read the answer


@dataclass
class Load:
    """What is in work, and whether more is welcome."""

    requests: int = 0
    body_bytes: int = 0
    draining: bool = False


class Traffic:
    """Names, admits, logs and counts requests, and answers what no route has answered.

    Args:
        app: What answers.
        door: Who may come in.
        load: What is in work.
        metrics: Where requests are counted.
        settings: Limits.
    """

    def __init__(
        self, app: ASGIApp, *, door: Door, load: Load, metrics: Metrics, settings: Settings
    ) -> None:
        self._app, self._door, self._load = app, door, load
        self._metrics, self._settings = metrics, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        start, seen = time.perf_counter(), _Seen()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                if not seen.may_go_on:
                    headers["Connection"] = "close"
            await send(message)

        try:
            await self._admitted(scope, receive, send_marked, seen)
        finally:
            self._record(scope, seen, time.perf_counter() - start)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start-up, shutdown, and websockets, which only those with a key may open."""
        if scope["type"] == "websocket":
            try:
                self._door.admit(scope)
            except HTTPException:
                await send({"type": "websocket.close", "code": 1008})
                return
        await self._app(scope, receive, send)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send, seen: "_Seen") -> None:
        try:
            seen.length = _claimed_length(Headers(scope=scope))
            _check_header(scope)
            if scope["path"] not in UNGUARDED:
                seen.client = self._door.admit(scope)
                scope["state"]["client"] = seen.client
            if not scope["path"].startswith("/v1"):
                await self._app(scope, receive, send)
                return
            with self._counted():
                await self._within_limits(scope, receive, send, seen)
        except HTTPException as error:
            if seen.status:
                raise
            await error_response(error, scope)(scope, receive, send)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._load.requests >= self._settings.max_requests:
            raise BusyError("too_many_requests", f"{self._load.requests} requests are in work")
        self._load.requests += 1
        self._metrics.in_work.inc()
        try:
            yield
        finally:
            self._load.requests -= 1
            self._metrics.in_work.dec()

    async def _within_limits(
        self, scope: Scope, receive: Receive, send: Send, seen: "_Seen"
    ) -> None:
        body = seen.body = Body(Headers(scope=scope), receive, self._settings, self._load)
        try:
            async with asyncio.timeout(None) as clock:
                body.clock = clock
                await body.run(self._app, scope, send)
        except TimeoutError as error:
            if not body.complete:
                message = f"the body took more than {self._settings.body_timeout_s} s"
                raise ApiError(408, "slow_body", message) from error
            message = f"no answer within {self._settings.request_timeout_s} s"
            raise ApiError(504, "deadline", message) from error
        finally:
            body.release()

    def _record(self, scope: Scope, seen: "_Seen", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        status = seen.status or 499  # the client has gone
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, method, status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if status in (408, 413, 429, 503, 504):
            self._metrics.rejected.labels(scope["state"].get("error_code", str(status))).inc()
        if self._settings.access_log:
            line = {
                "time": round(time.time(), 3),
                "request_id": scope["state"]["request_id"],
                "client": seen.client,
                "method": method,
                "path": scope["path"][:200],
                "status": status,
                "ms": round(1000 * seconds, 1),
                "body_bytes": seen.body.bytes if seen.body else 0,
            }
            logger.info(json.dumps(line))


@dataclass
class _Seen:
    """What the log says of one request."""

    status: int = 0
    client: str | None = None
    length: str = "0"
    """Of the body, as the header claims."""
    body: "Body | None" = None

    @property
    def may_go_on(self) -> bool:
        """Whether the connection is fit for another request: its body is read, or short."""
        if self.body is not None and self.body.complete:
            return True
        return self.length.isdigit() and int(self.length[:20]) <= UNREAD_BYTES


class Body:
    """The body of one request, counted as it arrives; afterwards it watches for the client to go.

    Args:
        headers: Of the request.
        receive: Where the body comes from.
        settings: Limits.
        load: Where the bytes of all bodies are counted.
    """

    clock: asyncio.Timeout
    """Set once for the body and again for the answer."""

    def __init__(self, headers: Headers, receive: Receive, settings: Settings, load: Load) -> None:
        self._receive, self._settings, self._load = receive, settings, load
        self._largest = int(1e6 * settings.max_body_mb)
        self.bytes = 0
        self._watch: asyncio.Task[None] | None = None
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > self._largest:
            raise self._too_large()
        self._has_none = length == "0" and "transfer-encoding" not in headers
        self.complete = False
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def run(self, app: ASGIApp, scope: Scope, send: Send) -> None:
        """Answer the request; a client that goes meanwhile ends the work."""
        self._task = task = asyncio.current_task()
        assert task is not None  # it runs in a loop
        self._reschedule(self._settings.body_timeout_s)
        if self._has_none:
            self._completed()
        try:
            await app(scope, self._next, send)
        except asyncio.CancelledError:
            if not self._gone.is_set():
                raise
            task.uncancel()
        finally:
            if self._watch is not None:
                self._watch.cancel()

    def release(self) -> None:
        """Its bytes are no longer in work."""
        self._load.body_bytes -= self.bytes

    async def _next(self) -> Message:
        if self._has_none:
            self._has_none = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self.complete:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            if not message.get("more_body", False):
                self._completed()
        return message

    def _count(self, size: int) -> None:
        self.bytes += size
        self._load.body_bytes += size
        if self.bytes > self._largest:
            raise self._too_large()
        if self._load.body_bytes > 1e6 * self._settings.max_bodies_mb:
            raise BusyError("too_many_bytes", "too many bytes are in work; try again later")

    def _completed(self) -> None:
        self.complete = True
        self._reschedule(self._settings.request_timeout_s)
        self._watch = asyncio.create_task(self._client_goes())

    def _reschedule(self, seconds: float) -> None:
        self.clock.reschedule(asyncio.get_running_loop().time() + seconds)

    async def _client_goes(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        if self._task is not None:
            self._task.cancel()

    def _too_large(self) -> ApiError:
        message = f"a body may have {self._settings.max_body_mb:g} MB, this one has more"
        return ApiError(413, "body_too_large", message)


def _check_header(scope: Scope) -> None:
    """Refuse a header that is too large, also where it arrived as one piece."""
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size + len(scope["raw_path"]) + len(scope["query_string"]) > MAX_HEADER_BYTES:
        raise ApiError(431, "header_too_large", f"a header may have {MAX_HEADER_BYTES} bytes")


def _claimed_length(headers: Headers) -> str:
    """Bytes of the body as the header has it; empty where it does not tell."""
    return "" if "transfer-encoding" in headers else headers.get("content-length", "0")


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
