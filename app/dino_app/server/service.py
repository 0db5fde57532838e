"""State that the routes share: the embedder and the store, each behind its queue."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from fastapi import Depends, Request
from jaxtyping import Float32, UInt8
from torch import Tensor

from dino_app.server.batching import Batcher, aside, call_all, to_the_end
from dino_app.server.bodies import Load
from dino_app.server.errors import ApiError
from dino_app.server.fetching import fetch
from dino_app.server.metrics import Metrics
from dino_app.server.request_images import base64_bytes, check_bytes
from dino_app.server.request_vectors import Row, check_width, numbers
from dino_app.server.routes.idempotency import Idempotency
from dino_app.server.settings import Settings
from dino_app.store.filters import Filter, parsed_filter
from dino_app.store.interface import Found, Hit, Included, SearchParams, Store
from dino_app.store.item_checks import checked_queries
from dino_infer.cores import cores
from dino_infer.embedding.engines import Engine
from dino_infer.heads import LinearHead
from dino_infer.images.preprocess import Preprocess

Answer = TypeVar("Answer")

SEARCHES_AT_ONCE = 64  # one scan of the vectors answers them; FAISS gains from 20 on
QUICK_LETTERS = 1 << 16  # of an image as base64: decoded within milliseconds
QUICK_VECTOR = 1 << 14  # letters or numbers; a request may hold hundreds
NO_INDEX = "this server has no index; start it with one: dino-serve INDEX"


@runtime_checkable
class ImageEmbedder(Protocol):
    """Part of the interface of an ``Embedder`` that the server needs."""

    engine: Engine
    preprocess: Preprocess
    device: torch.device

    def decoded(self, data: bytes, *, name: str = "image") -> UInt8[Tensor, "3 height width"]:
        """Pixels of an encoded image."""

    def features(self, pixels: Sequence[UInt8[Tensor, "3 _ _"]]) -> Float32[np.ndarray, "rows _"]:
        """A vector for each image."""

    def description(self) -> dict[str, Any]:
        """Settings that determine how vectors are made."""


class _Query(NamedTuple):
    """One search as it waits."""

    vector: Row
    k: int
    filter: Filter | None
    params: SearchParams
    include: frozenset[Included]


class Answered(NamedTuple):
    """Hits of one search."""

    hits: list[Hit]
    version: str
    """Version of the index that was searched."""
    exact: bool
    """True if every vector that may match was compared."""


class Service:
    """The stages of work of one server."""

    def __init__(
        self, embedder: ImageEmbedder, store: Store | None, settings: Settings, *, read_only: bool
    ) -> None:
        self.embedder, self._store = embedder, store
        self.settings, self.read_only = settings, read_only
        self.head: LinearHead | None = None
        self.metrics, self.load, self.idempotency = Metrics(), Load(), Idempotency()
        self.model, self.started = embedder.description(), int(time.time())
        self.max_image_bytes = int(1e6 * settings.max_image_mb)
        self.max_pixels = int(1e6 * settings.max_megapixels)
        self.dim = store.info().dim if store is not None else 0
        stage = functools.partial(Batcher, metrics=self.metrics)
        embedders = settings.embed_threads or cores()
        if embedder.device.type != "cpu":
            embedders = 1
        self._decode: Batcher[tuple[bytes, str], Tensor] = stage(
            self._decoded, name="decode", workers=settings.decode_threads or cores(),
            max_waiting=settings.max_queue,
        )  # fmt: skip
        self._embed: Batcher[Tensor, Row] = stage(
            self._embedded, name="embed", workers=embedders, max_batch=settings.max_batch,
            max_wait_s=settings.batch_wait_ms / 1000, max_waiting=settings.max_queue,
            more_may_come=self._images_may_come,
        )  # fmt: skip
        self._search: Batcher[_Query, Answered] = stage(
            self._searched, name="search", workers=settings.search_threads or cores(),
            max_batch=SEARCHES_AT_ONCE, max_waiting=settings.max_searches,
            initializer=_one_thread_a_search,
        )  # fmt: skip
        calls = functools.partial(stage, call_all, max_waiting=settings.max_requests)
        self._metadata: Batcher[Callable[[], Any], Any] = calls(name="metadata", workers=2)
        self._write: Batcher[Callable[[], Any], Any] = calls(name="write")
        self._look: Batcher[Callable[[], Any], Any] = calls(
            name="attention", max_waiting=max(1, settings.max_queue // 8)
        )
        self._picture: Batcher[Callable[[], Any], Any] = calls(
            name="thumbnail", max_waiting=settings.max_queue
        )
        self.stages: list[Batcher[Any, Any]] = [
            self._decode, self._embed, self._search, self._metadata, self._write, self._look,
            self._picture,
        ]  # fmt: skip

    async def start(self) -> None:
        """Warm the network up, then take requests.

        Raises:
            ValueError: The network gives another number of values than the index holds.
        """
        for stage in self.stages:
            stage.start()
        blank = self.embedder.preprocess.pixels(np.zeros((64, 64, 3), dtype=np.uint8))
        width = len(await self._embed(blank, group=blank.shape))
        if self._store is not None and width != self.dim:
            raise ValueError(f"the index holds vectors of {self.dim} values, the network {width}")
        self.dim = width

    async def stop(self) -> None:
        """Finish what is in work."""
        for stage in self.stages:
            await stage.stop()

    @property
    def has_index(self) -> bool:
        """True if there is an index."""
        return self._store is not None

    @property
    def store(self) -> Store:
        """The index; see ``require_index``."""
        self.require_index()
        return cast(Store, self._store)

    def require_index(self) -> None:
        """Refuse requests that need an index where there is none.

        Raises:
            ApiError: There is none.
        """
        if self._store is None:
            raise ApiError(404, "no_index", NO_INDEX)

    async def image(
        self, given: str | bytes | None, url: str | None, *, param: str = "image"
    ) -> bytes:
        """The encoded image that a request carries or names.

        Raises:
            ApiError: Too many bytes, no base64, or an address that is not allowed.
        """
        if isinstance(given, str) and given[:8].lower().startswith(("http://", "https://")):
            given, url = None, given
        if url is not None:
            return await self._fetch(url, param)
        if isinstance(given, bytes):
            check_bytes(len(given), param=param, max_bytes=self.max_image_bytes)
            return given
        decode = functools.partial(
            base64_bytes, given or "", param=param, max_bytes=self.max_image_bytes
        )
        return await aside(decode, is_quick=len(given or "") <= QUICK_LETTERS)

    async def embedded(self, image: bytes, *, param: str = "image") -> Row:
        """The vector of an encoded image.

        Raises:
            ImageError: It cannot be decoded.
            ApiError: The queue is full.
        """
        pixels = await self._decode((image, param))
        return await self._embed(pixels, group=pixels.shape)

    def check_space(self, images: int) -> None:
        """Refuse images that would not fit into the queue, with an ApiError."""
        self._decode.check_space(images)

    async def query_vector(self, given: list[float] | str, *, param: str = "vector") -> Row:
        """A unit vector as a request wrote it.

        Raises:
            ApiError: Another width, zero, or not finite.
        """
        is_quick = len(given) <= QUICK_VECTOR
        vector = await aside(functools.partial(numbers, given, param), is_quick=is_quick)
        check_width(vector, self.dim, param)
        try:
            checked: Row = checked_queries(vector[None], dim=self.dim, k=1)[0]
            return checked
        except ValueError as error:
            raise ApiError(400, "invalid_vector", str(error), param=param) from error

    async def search(
        self, vector: Row, *, k: int, filter: dict[str, Any] | None = None,
        params: SearchParams | None = None, include: Sequence[Included] = (),
    ) -> Answered:  # fmt: skip
        """The nearest items of a vector.

        Raises:
            FilterError: The filter makes no sense.
            ApiError: There is no index, or the queue is full.
        """
        self.require_index()
        condition = None if filter is None else parsed_filter(filter)
        query = _Query(vector, k, condition, params or SearchParams(), frozenset(include))
        # Not the parsed filter: 1 and true are equal keys.
        group = (k, repr(filter), query.params, query.include)
        return await self._search(query, group=group)

    async def read(self, call: Callable[[], Answer]) -> Answer:
        """Return the result of a call that reads the store."""
        return cast(Answer, await self._metadata(call))

    async def write(self, call: Callable[[], Answer]) -> Answer:
        """Return the result of a call that changes the store; it goes on when the client has gone.

        Raises:
            ApiError: The server only reads, or what was asked for is not allowed.
        """
        self.check_writable()
        return cast(Answer, await to_the_end(self._write(call)))

    def check_writable(self) -> None:
        """Refuse writes where the server only reads, with an ApiError."""
        if self.read_only:
            raise ApiError(403, "read_only", "this server does not change its index")

    async def picture(self, call: Callable[[], Answer]) -> Answer:
        """Return the result of a call that makes a thumbnail."""
        return cast(Answer, await self._picture(call))

    async def look(self, call: Callable[[], Answer]) -> Answer:
        """Return the result of a call that draws attention."""
        return cast(Answer, await self._look(call))

    async def _fetch(self, url: str, param: str) -> bytes:
        if not self.settings.url_input:
            message = "addresses are not fetched here; send the image itself"
            raise ApiError(400, "url_input_off", message, param=param)
        start = time.perf_counter()
        data = await fetch(
            url, max_bytes=self.max_image_bytes, timeout_s=self.settings.url_timeout_s, param=param
        )
        self.metrics.stage_seconds.labels("fetch").observe(time.perf_counter() - start)
        return data

    def _decoded(self, images: list[tuple[bytes, str]]) -> list[Tensor]:
        return [self.embedder.decoded(data, name=name) for data, name in images]

    def _images_may_come(self) -> bool:
        """Tell if another request is in work whose image could share the next batch."""
        decoding = self._decode.depth + self._decode.running
        return decoding > 0 or self.load.requests > self._embed.depth

    def _embedded(self, pixels: list[Tensor]) -> list[Row]:
        threads = max(1, cores() // self._embed.running)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # of this thread
        return list(self.embedder.features(pixels))

    def _searched(self, queries: list[_Query]) -> list[Answered]:
        first = queries[0]
        found: Found = self.store.search(
            np.stack([query.vector for query in queries]), k=first.k, filter=first.filter,
            params=first.params, include=first.include,
        )  # fmt: skip
        return [Answered(hits, found.version, found.exact) for hits in found.hits]


async def service_of(request: Request) -> Service:
    """The service of the application that answers."""
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(service_of)]


def _one_thread_a_search() -> None:
    import faiss

    faiss.omp_set_num_threads(1)
