"""Run the application with uvicorn: a socket first, then requests, then an orderly end."""

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from dino_app.server.bodies import Load
from dino_app.server.middleware import MAX_HEADER_BYTES
from dino_app.server.settings import Settings
from dino_infer.errors import DinoError

logger = logging.getLogger(__name__)

BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one.

    Raises:
        DinoError: The port is taken or the host is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns the delay of small packets off only where the protocol is said to be TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        return listening
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise DinoError(
            f"cannot listen on {host}:{port} ({reason}); pass another `port` or `host`"
        ) from error


def uvicorn_config(
    app: FastAPI,
    settings: Settings,
    *,
    drain_s: float = 30,
    trusted_proxies: str | None = None,
) -> uvicorn.Config:
    """Configuration by which uvicorn runs an application within limits."""
    return uvicorn.Config(
        app,
        http=limited_protocol(settings.header_timeout_s),
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        proxy_headers=trusted_proxies is not None,
        forwarded_allow_ips=trusted_proxies,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=max(1, round(drain_s)),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )


class Server(uvicorn.Server):
    """Uvicorn that says it is draining before it stops to listen, and then ends well.

    Args:
        config: Result of ``uvicorn_config``.
        load: Load of the application; /readyz looks at it.
        notice_s: Seconds that requests are still taken after the first signal, so that a load
            balancer can look away.
        on_leave: Function that is called when it stops to listen.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        load: Load,
        notice_s: float = 0,
        on_leave: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(config)
        self._load, self._notice_s, self._on_leave = load, notice_s, on_leave

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, stop at the second."""
        if self._load.draining:
            self.should_exit = self.force_exit = True
            return
        self._load.draining = True
        logger.info("draining: requests in work are finished, then the server ends")
        loop = asyncio.get_running_loop()
        # A signal may come while the loop changes its list of timers.
        loop.call_soon_threadsafe(loop.call_later, self._notice_s, self._leave)

    def _leave(self) -> None:
        if self._on_leave is not None:
            self._on_leave()
        self.should_exit = True


def limited_protocol(header_timeout_s: float) -> type[H11Protocol]:
    """HTTP/1.1 that closes a connection whose request header takes too long to arrive."""

    class LimitedProtocol(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_request()

        def data_received(self, data: bytes) -> None:
            if self._is_idle():
                self._expect_request()
            super().data_received(data)
            if not self._is_idle():
                self._stop_clock()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_clock()
            super().connection_lost(exc)

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _expect_request(self) -> None:
            if self._late is None:
                self._late = self.loop.call_later(header_timeout_s, self.transport.close)

        def _stop_clock(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return LimitedProtocol
