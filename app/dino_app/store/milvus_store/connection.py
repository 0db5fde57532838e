"""Connections to Milvus: a server, or Milvus Lite, whose file one process at a time may use."""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dino_app.errors import StoreError, StoreLockedError
from dino_infer.errors import MissingExtraError

TOKEN_VARIABLE = "DINO_MILVUS_TOKEN"
CONNECT_TIMEOUT_S = 10
CALL_TIMEOUT_S = 120
# pymilvus pings idle servers every 10 s, which Milvus Lite answers by hanging up on its clients.
_LITE_OPTIONS = {"grpc.keepalive_time_ms": 2**31 - 1}
_COLLECTION = re.compile(r"(?!.*__)[A-Za-z_][A-Za-z0-9_]{0,63}")


class Place(NamedTuple):
    """Parts of a location after ``milvus:``."""

    uri: str
    """A URL, or the file of Milvus Lite."""
    collection: str

    @property
    def is_lite(self) -> bool:
        """True if it is a local file."""
        return "://" not in self.uri

    def kind(self, index: str) -> str:
        """Kind of index that is made for a wanted one: Milvus Lite has no choice of its own."""
        return "flat" if index == "auto" and self.is_lite else index

    def __str__(self) -> str:
        return f"milvus:{self.uri}/{self.collection}"


@dataclass
class _Shared:
    """A file of Milvus Lite that is open in this process."""

    client: Any
    writing: threading.RLock = field(default_factory=threading.RLock)
    users: int = 1


_lite: dict[str, _Shared] = {}
_opening = threading.Lock()


def parsed_place(location: str) -> Place:
    """A location taken apart.

    Raises:
        StoreError: It is none.
    """
    uri, _, collection = location.rpartition("/")
    is_server = uri.startswith(("http://", "https://"))
    if not (is_server or uri.endswith(".db")) or not _COLLECTION.fullmatch(collection):
        raise StoreError(
            "expected milvus:FILE.db/COLLECTION or milvus:http://HOST:PORT/COLLECTION, where the "
            "collection is up to 64 letters, digits and single underscores, got "
            f"{'milvus:' + location!r}"
        )
    return Place(uri, collection)


class Connection:
    """Calls of ``pymilvus.MilvusClient`` with typed errors.

    Raises:
        StoreError: Nobody answers there, or the file is damaged or cannot be written.
        StoreLockedError: Another process has the file of Milvus Lite open.
        MissingExtraError: pymilvus is not installed.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        if place.is_lite:
            self._path = os.path.abspath(place.uri)
            shared = _shared_lite(self._path)
            self._client, self.writing = shared.client, shared.writing
        else:
            self._client, self.writing = _client(place.uri), threading.RLock()
        self._closed = False

    def call(self, method: str, /, *args: Any, **options: Any) -> Any:
        """Return the result of a method of the client.

        Raises:
            StoreError: It failed.
        """
        from pymilvus.exceptions import MilvusException

        if self._closed:
            raise StoreError(f"{str(self.place)!r} is closed")
        try:
            return getattr(self._client, method)(*args, timeout=CALL_TIMEOUT_S, **options)
        except MilvusException as error:
            raise StoreError(f"{str(self.place)!r}: {_reason(error)}") from error

    def close(self) -> None:
        """Let go of it; the last user of a file in this process frees it for other processes."""
        if self._closed:
            return
        self._closed = True
        if not self.place.is_lite:
            self._client.close()
            return
        from milvus_lite.server_manager import server_manager_instance

        with _opening:
            shared = _lite[self._path]
            shared.users -= 1
            if shared.users == 0:
                del _lite[self._path]
                shared.client.close()
                server_manager_instance.release_server(self._path)


def _shared_lite(path: str) -> _Shared:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise StoreError(f"cannot open {path!r}: folder {folder!r} does not exist; make it")
    with _opening:
        if path in _lite:
            _lite[path].users += 1
        else:
            _lite[path] = _Shared(_client(path))
        return _lite[path]


def _client(uri: str) -> Any:
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        if "://" not in uri:
            import milvus_lite  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"Milvus needs pymilvus with milvus-lite, which cannot be imported ({error}); "
            "install it with: pip install 'dino-toolkit[milvus]'"
        ) from error
    # They log each error with its traceback, though they raise it as well.
    for name in ("pymilvus", "milvus_lite.adapter", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"token": os.environ.get(TOKEN_VARIABLE, "")}
    if "://" not in uri:
        options["grpc_options"] = _LITE_OPTIONS
    with _lite_errors() as errors:
        try:
            return MilvusClient(uri, timeout=CONNECT_TIMEOUT_S, **options)
        except MilvusException as error:
            cause = errors[-1] if errors else error
            if type(cause).__name__ == "DataDirLockedError":
                raise StoreLockedError(
                    f"{uri!r} is open in another process; Milvus Lite allows one at a time, a "
                    "Milvus server many"
                ) from error
            raise StoreError(f"cannot open {uri!r}: {_reason(cause)}") from error


@contextlib.contextmanager
def _lite_errors() -> Iterator[list[BaseException]]:
    """Collect the errors that Milvus Lite only logs when it cannot open its file."""
    errors: list[BaseException] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                errors.append(record.exc_info[1])

    logger, keeper = logging.getLogger("milvus_lite.server_manager"), Keeper()
    logger.addHandler(keeper)
    logger.propagate = False
    try:
        yield errors
    finally:
        logger.removeHandler(keeper)
        logger.propagate = True


def _reason(error: BaseException) -> str:
    text = str(getattr(error, "message", "") or error)
    return " ".join(text.split())[:300] or type(error).__name__
