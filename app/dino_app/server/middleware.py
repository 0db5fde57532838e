"""Every request on its way in and out: identity, admission, byte and time limits, the log."""

import asyncio
import json
import logging
import re
import time
import uuid
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dino_app.server.auth import Door, is_api
from dino_app.server.bodies import Body, Load, too_many_bytes
from dino_app.server.errors import ApiError, BusyError, error_response
from dino_app.server.metrics import Metrics
from dino_app.server.settings import Settings

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
UNGUARDED = ("/livez",)
STATUS = ("/livez", "/readyz", "/metrics")  # answered however much is in work
MAX_HEADER_BYTES = 32 << 10
UPLOADS = "/gradio_api/upload"  # of the demo, which streams them to the disk
MAX_PAGE_MB = 1  # of any other body that a page sends: it is held in memory while it waits
UNREAD_BYTES = 1 << 16  # of a refused body, thrown away so that the client can read the answer


class Traffic:
    """Names, admits, logs and counts requests, and answers what no route has answered."""

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
            await self._admit(scope, receive, send_marked, seen)
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

    async def _admit(self, scope: Scope, receive: Receive, send: Send, seen: "_Seen") -> None:
        try:
            seen.length = _claimed_length(Headers(scope=scope))
            _check_header(scope)
            if scope["path"] not in UNGUARDED:
                seen.client = self._door.admit(scope)
                scope["state"]["client"] = seen.client
            await self._within_limits(scope, receive, send, seen)
        except HTTPException as error:
            if not seen.status:  # else only the end of the connection can tell
                await error_response(error, scope)(scope, receive, send)

    async def _within_limits(
        self, scope: Scope, receive: Receive, send: Send, seen: "_Seen"
    ) -> None:
        load, settings = self._load, self._settings
        if scope["path"] not in STATUS:
            if load.requests >= settings.max_requests:
                raise BusyError("too_many_requests", f"{load.requests} requests are in work")
            if (busy := too_many_bytes(load, settings)) is not None:
                raise busy
        body = seen.body = Body(
            Headers(scope=scope), receive, settings, load,
            largest_mb=_largest_mb(scope["path"], settings), is_api=is_api(scope["path"]),
        )  # fmt: skip
        try:
            async with asyncio.timeout(None) as clock:
                body.clock = clock
                with self._metrics.in_work.track_inprogress():
                    await body.run(self._app, scope, send)
        except TimeoutError as error:
            if not body.complete:
                message = f"the body took more than {settings.body_timeout_s} s"
                raise ApiError(408, "slow_body", message) from error
            message = f"no answer within {settings.request_timeout_s} s"
            raise ApiError(504, "deadline", message) from error

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
    """Facts about one request for the log."""

    status: int = 0
    client: str | None = None
    length: str = "0"
    """Length of the body, as the header claims."""
    body: "Body | None" = None

    @property
    def may_go_on(self) -> bool:
        """True if the connection is fit for another request: its body is read, or short."""
        if self.body is not None and self.body.complete:
            return True
        return self.length.isdigit() and int(self.length[:20]) <= UNREAD_BYTES


def _check_header(scope: Scope) -> None:
    """Refuse a header that is too large, also where it arrived as one piece."""
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size + len(scope["raw_path"]) + len(scope["query_string"]) > MAX_HEADER_BYTES:
        raise ApiError(431, "header_too_large", f"a header may have {MAX_HEADER_BYTES} bytes")


def _largest_mb(path: str, settings: Settings) -> float:
    """Megabytes that a body may have there."""
    if is_api(path) or path.rstrip("/") == UPLOADS:
        return settings.max_body_mb
    return min(MAX_PAGE_MB, settings.max_body_mb)


def _claimed_length(headers: Headers) -> str:
    """Bytes of the body as the header has it; empty where it does not tell."""
    return "" if "transfer-encoding" in headers else headers.get("content-length", "0")


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
