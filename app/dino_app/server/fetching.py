"""Images by address, where that is allowed: from the public internet only.

A name is looked up once, every address it has must be public, and the connection goes to the
address that was checked. Redirects are not followed, proxies of the environment are not used.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

import httpx
from safehttpx import AsyncSecureTransport

from dino_app.server.errors import ApiError
from dino_app.server.request_images import check_bytes

Resolve = Callable[[str, int], Awaitable[list[str]]]

MAX_URL_LETTERS = 2048
PORTS = {"http": 80, "https": 443}


async def fetch(
    address: str, *, max_bytes: int, timeout_s: float, param: str, resolve: Resolve | None = None
) -> bytes:
    """The bytes at an address.

    Args:
        address: http or https, on the usual port of either.
        max_bytes: Larger answers are refused.
        timeout_s: Seconds for all of it.
        param: Name of the address in errors.
        resolve: Addresses of a host; the system's by default.

    Raises:
        ApiError: Not a public address, no answer in time, or no success.
    """
    url = _checked(address, param)
    try:
        async with asyncio.timeout(timeout_s):
            ip = await _public_ip(url, resolve or _resolve, param)
            return await _body(url, ip, max_bytes=max_bytes, param=param)
    except TimeoutError as error:
        raise _failed(f"no answer within {timeout_s:g} s", param) from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise _failed(f"it cannot be fetched ({type(error).__name__})", param) from error


def _checked(address: str, param: str) -> httpx.URL:
    try:
        url = httpx.URL(address[: MAX_URL_LETTERS + 1])
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise _failed("not an address", param) from error
    if len(address) > MAX_URL_LETTERS or url.scheme not in PORTS or not url.host:
        raise _failed("expected http://... or https://... of ordinary length", param)
    if url.userinfo or url.port not in (None, PORTS[url.scheme]):
        raise _failed("names, passwords and ports are not allowed in it", param)
    return url


async def _public_ip(url: httpx.URL, resolve: Resolve, param: str) -> str:
    found = await resolve(url.host, PORTS[url.scheme])
    if not found or not all(is_public(ip) for ip in found):
        raise _failed("its host is not in the public internet", param)
    return found[0]


def is_public(ip: str) -> bool:
    """Tell if an address is one of the public internet, also where it hides another."""
    try:
        address = ipaddress.ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo
        inner = address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
        if address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            address = inner
    return address.is_global and not address.is_multicast


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(place[4][0]) for place in found]


async def _body(url: httpx.URL, ip: str, *, max_bytes: int, param: str) -> bytes:
    async with (
        httpx.AsyncClient(transport=AsyncSecureTransport(ip), trust_env=False) as client,
        client.stream("GET", url, headers={"Accept": "image/*", "Accept-Encoding": "identity"}) as
        answer,
    ):  # fmt: skip
        if answer.status_code != 200:
            raise _failed(f"it answers {answer.status_code}; redirects are not followed", param)
        parts, size = [], 0
        async for part in answer.aiter_raw():
            size += len(part)
            check_bytes(size, param=param, max_bytes=max_bytes)
            parts.append(part)
        return b"".join(parts)


def _failed(reason: str, param: str) -> ApiError:
    return ApiError(400, "url_refused", f"the image at this address is not used: {reason}",
                    param=param)  # fmt: skip
