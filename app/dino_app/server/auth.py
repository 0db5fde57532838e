"""Access control: API keys, allowed hosts and sites, and rate limits."""

import base64
import binascii
import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import Scope

from dino_app.server.errors import ApiError, BusyError

MIN_KEY_LETTERS = 16
MAX_CLIENTS = 10_000  # whose last requests are remembered
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class Keys:
    """The keys that open the server; only their hashes are kept.

    Requests carry one as ``Authorization: Bearer KEY``. Outside of ``/v1`` a browser may send it as
    the password of a login instead; inside, that would let other sites use the login.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._hashes = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def owner(self, authorization: str | None, *, login: bool) -> str | None:
        """A short name of the key that a header carries; None if it is none of ours."""
        scheme, _, value = (authorization or "").partition(" ")
        if scheme.lower() == "basic" and login:
            value = _password(value)
        elif scheme.lower() != "bearer":
            return None
        given = _digest(value.strip())
        # Each is compared, so that the time tells nothing about which one fits.
        same = [hmac.compare_digest(given, known) for known in self._hashes]
        return given.hex()[:8] if any(same) else None


def read_keys(path: str | Path | None, environment: Mapping[str, str]) -> Keys:
    """Keys from a file (one a line, ``#`` begins a comment) and from ``DINO_API_KEYS``.

    Raises:
        ValueError: A key is too short, or the file holds none.
        OSError: The file cannot be read.
    """
    keys = environment.get("DINO_API_KEYS", "").replace(",", " ").split()
    if path is not None:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"`api_key_file` {str(path)!r} holds bytes that are no text"
            ) from error
        in_file = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not in_file:
            raise ValueError(f"`api_key_file` {str(path)!r} holds no key")
        keys += in_file
    if any(len(key) < MIN_KEY_LETTERS for key in keys):
        raise ValueError(
            f"API keys need at least {MIN_KEY_LETTERS} letters; make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return Keys(keys)


class RateLimit:
    """So many requests a minute for each client; memory holds the latest clients only.

    Args:
        per_minute: Requests; 0 is no limit. As many may come at once after a quiet minute.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def count(self, client: str) -> None:
        """Count one request.

        Raises:
            BusyError: It is one too many.
        """
        if not self._per_minute:
            return
        now = time.monotonic()
        left, since = self._buckets.pop(client, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - since) * self._per_minute / 60)
        self._buckets[client] = (max(0.0, left - 1), now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1:
            message = f"more than {self._per_minute} requests a minute"
            wait = 60 * (1 - left) / self._per_minute
            raise BusyError("rate_limited", message, retry_after_s=wait)


class Door:
    """Lets a request in or says why not.

    Args:
        keys: Keys of clients; without any, everyone may come in.
        open_paths: Paths that need no key, nor what is below them.
        hosts: Names by which the server may be called; None for any. It keeps out web pages whose
            name was made to point here.
        rate: Limit of the requests of each client.
    """

    def __init__(
        self, keys: Keys, *, open_paths: tuple[str, ...], hosts: tuple[str, ...] | None,
        rate: RateLimit,
    ) -> None:  # fmt: skip
        self._keys, self._open, self._hosts, self._rate = keys, open_paths, hosts, rate

    def admit(self, scope: Scope) -> str:
        """The client's name: of its key, or its address.

        Raises:
            ApiError: It may not come in.
        """
        headers, path = Headers(scope=scope), scope["path"]
        self._check_site(headers)
        client = (scope.get("client") or ("unknown", 0))[0]
        if not self._keys or any(path == p or path.startswith(f"{p}/") for p in self._open):
            self._rate.count(client)
            return str(client)
        owner = self._keys.owner(headers.get("authorization"), login=not is_api(path))
        self._rate.count(owner or client)
        if owner is None:
            scheme = "Bearer" if is_api(path) else 'Basic realm="dino-serve: password = API key"'
            raise ApiError(
                401, "invalid_api_key", "a valid key is needed: 'Authorization: Bearer KEY'",
                headers={"WWW-Authenticate": scheme},
            )  # fmt: skip
        return owner

    def _check_site(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            raise ApiError(403, "wrong_host", f"this server is not called {_name(host)[:100]!r}")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ApiError(403, "other_site", "pages of other sites may not use this server")


def is_api(path: str) -> bool:
    """Tell the paths of the API from those that browsers visit."""
    return path == "/v1" or path.startswith("/v1/")


def _name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
