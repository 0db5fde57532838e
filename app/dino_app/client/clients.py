"""Clients of ``dino-serve``, for threads and for asyncio.

    with Client("http://127.0.0.1:8000") as dino:
        for result in dino.search("cat.jpg", k=5).results:
            print(result.id, result.score)

A busy server (429, 503) is asked again after the seconds that it names, a minute at most; all else
that is no success raises ``ServerError``. Answers are the server's own schemas
(``dino_app.server.responses``).
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, Literal, TypeVar

import httpx
import numpy as np
from jaxtyping import Float
from PIL import Image

from dino_app.client.messages import (
    INFO,
    Ask,
    NewItem,
    Picture,
    Vector,
    attention_ask,
    classify_ask,
    content_of,
    delete_ask,
    embed_ask,
    pause_s,
    search_ask,
    unreachable,
    upsert_ask,
)
from dino_app.server.responses import Classes, DeleteAnswer, Info, SearchAnswer, UpsertAnswer

T = TypeVar("T")


class _Asking:
    """Address and patience of both clients; the arguments are those of ``Client``."""

    _connected: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str = "",
        timeout_s: float = 60.0,
        retries: int = 4,
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = self._connected(base_url=url, headers=headers, timeout=timeout_s)
        self._retries = retries

    def _request(self, ask: Ask[Any]) -> httpx.Request:
        method = "GET" if ask.body is None else "POST"
        request: httpx.Request = self._http.build_request(method, ask.path, json=ask.body)
        return request

    def _wait_s(self, answer: httpx.Response, tries: int) -> float | None:
        """Seconds until a busy server is asked again; None where its answer stands."""
        return pause_s(answer, 0.5 * 2**tries) if tries < self._retries else None


class Client(_Asking):
    """A client that waits for each answer.

    Args:
        url: Address of the server.
        key: API key, where the server has keys.
        timeout_s: Seconds to wait for an answer.
        retries: Times that a busy server is asked again after the seconds that it names; one that
            names more than a minute is given up at once.
    """

    _connected = httpx.Client

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def info(self) -> Info:
        """Model, limits and index of the server."""
        return self._answer(INFO)

    def embed(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "*images dim"]:
        """The vector of an image, or a row for each of several, float32."""
        return self._answer(embed_ask(images))

    def search(
        self,
        subject: Picture | Vector | None = None,
        *,
        id: str | None = None,
        k: int = 10,
        filter: Mapping[str, Any] | None = None,
        include: Sequence[Literal["metadata", "vector"]] = ("metadata",),
    ) -> SearchAnswer:
        """The items nearest to an image, to a vector, or to the item ``id``, best first.

        Args:
            subject: An image or a vector; None where ``id`` is given.
            id: An item of the index, which is left out of the results.
            k: Number of results.
            filter: Conditions on metadata, such as ``{"label": "cat", "year": {"$gte": 2020}}``.
            include: Fields of results beside id and score.
        """
        ask = search_ask(subject, id, k=k, filter=filter, include=list(include))
        return self._answer(ask)

    def classify(
        self,
        subject: Picture | Vector | None = None,
        *,
        id: str | None = None,
        k: int = 20,
        label: str = "label",
    ) -> Classes:
        """Classes by the vote of the ``k`` nearest items, or by the server's head."""
        return self._answer(classify_ask(subject, id, k=k, label=label))

    def upsert(self, items: Sequence[NewItem]) -> UpsertAnswer:
        """Add items or replace them; each has a status of its own."""
        return self._answer(upsert_ask(items))

    def delete(self, ids: Sequence[str]) -> DeleteAnswer:
        """Delete items for good; the answer names those that were there."""
        return self._answer(delete_ask(ids))

    def attention(self, image: Picture, *, heads: str | int = "all") -> Image.Image:
        """[CLS] attention drawn: a sheet of all heads, or the overlay of ``mean`` or of one."""
        return self._answer(attention_ask(image, heads))

    def _answer(self, ask: Ask[T]) -> T:
        request = self._request(ask)
        for tries in count():
            try:
                answer = self._http.send(request)
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            wait_s = self._wait_s(answer, tries)
            if wait_s is None:
                break
            time.sleep(wait_s)
        return ask.read(content_of(answer))


class AsyncClient(_Asking):
    """``Client`` for asyncio: the same arguments and methods, to be awaited."""

    _connected = httpx.AsyncClient

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def info(self) -> Info:
        """See ``Client.info``."""
        return await self._answer(INFO)

    async def embed(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "*images dim"]:
        """See ``Client.embed``."""
        return await self._answer(embed_ask(images))

    async def search(
        self,
        subject: Picture | Vector | None = None,
        *,
        id: str | None = None,
        k: int = 10,
        filter: Mapping[str, Any] | None = None,
        include: Sequence[Literal["metadata", "vector"]] = ("metadata",),
    ) -> SearchAnswer:
        """See ``Client.search``."""
        ask = search_ask(subject, id, k=k, filter=filter, include=list(include))
        return await self._answer(ask)

    async def classify(
        self,
        subject: Picture | Vector | None = None,
        *,
        id: str | None = None,
        k: int = 20,
        label: str = "label",
    ) -> Classes:
        """See ``Client.classify``."""
        return await self._answer(classify_ask(subject, id, k=k, label=label))

    async def upsert(self, items: Sequence[NewItem]) -> UpsertAnswer:
        """See ``Client.upsert``."""
        return await self._answer(upsert_ask(items))

    async def delete(self, ids: Sequence[str]) -> DeleteAnswer:
        """See ``Client.delete``."""
        return await self._answer(delete_ask(ids))

    async def attention(self, image: Picture, *, heads: str | int = "all") -> Image.Image:
        """See ``Client.attention``."""
        return await self._answer(attention_ask(image, heads))

    async def _answer(self, ask: Ask[T]) -> T:
        request = self._request(ask)
        for tries in count():
            try:
                answer = await self._http.send(request)
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            wait_s = self._wait_s(answer, tries)
            if wait_s is None:
                break
            await asyncio.sleep(wait_s)
        return ask.read(content_of(answer))
