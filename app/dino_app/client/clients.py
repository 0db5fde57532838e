"""Clients of ``dino-serve``, for threads and for asyncio.

    with Client("http://127.0.0.1:8000") as dino:
        for result in dino.search("cat.jpg", k=5).results:
            print(result.id, result.score)

A busy server (429, 503) is asked again after the seconds that it names; all else that is no success
raises ``ServerError``. Answers are the server's own schemas (``dino_app.server.responses``).
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import httpx
import numpy as np
from jaxtyping import Float
from PIL import Image

from dino_app.client.messages import (
    Ask,
    NewItem,
    Picture,
    Vector,
    attention_ask,
    content_of,
    delete_ask,
    embed_ask,
    look_ask,
    pause_s,
    picture_of,
    unreachable,
    upsert_ask,
    vectors_of,
)
from dino_app.server.responses import Classes, DeleteAnswer, Info, SearchAnswer, UpsertAnswer

BUSY = (429, 503)


class _Asking:
    """Requests and their retries, which both clients share."""

    def __init__(self, retries: int) -> None:
        self._retries = retries

    def _waits(self) -> Iterator[float]:
        """Seconds to wait at most before each further try."""
        yield from (0.5 * 2**attempt for attempt in range(self._retries))

    @staticmethod
    def _options(url: str, key: str, timeout_s: float) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return {"base_url": url, "headers": headers, "timeout": timeout_s}

    @staticmethod
    def _sent(ask: Ask) -> dict[str, Any]:
        method = "GET" if ask.body is None else "POST"
        return {"method": method, "url": ask.path, "json": ask.body}


class Client(_Asking):
    """A client that waits for each answer.

    Args:
        url: Address of the server.
        key: API key, where the server has keys.
        timeout_s: Seconds to wait for an answer.
        retries: How often a busy server is asked again; it is waited for as long as it says.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str = "",
        timeout_s: float = 60.0,
        retries: int = 4,
    ) -> None:
        super().__init__(retries)
        self._http = httpx.Client(**self._options(url, key, timeout_s))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def info(self) -> Info:
        """Model, limits and index of the server."""
        return Info.model_validate_json(self._answer(Ask("/v1/info")))

    def embed(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "*images dim"]:
        """The vector of an image, or a row for each of several, float32."""
        rows = vectors_of(self._answer(embed_ask(images)))
        return rows[0] if isinstance(images, Picture) else rows

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
            k: How many results.
            filter: Conditions on metadata, such as ``{"label": "cat", "year": {"$gte": 2020}}``.
            include: What results carry beside id and score.
        """
        more = {"k": k, "filter": filter, "include": list(include)}
        return SearchAnswer.model_validate_json(self._answer(look_ask("search", subject, id, more)))

    def classify(
        self,
        subject: Picture | Vector | None = None,
        *,
        id: str | None = None,
        k: int = 20,
        label: str = "label",
    ) -> Classes:
        """Classes by the vote of the ``k`` nearest items, or by the server's head."""
        more = {"k": k, "label": label}
        return Classes.model_validate_json(self._answer(look_ask("classify", subject, id, more)))

    def upsert(self, items: Sequence[NewItem]) -> UpsertAnswer:
        """Add items or replace them; each has a status of its own."""
        return UpsertAnswer.model_validate_json(self._answer(upsert_ask(items)))

    def delete(self, ids: Sequence[str]) -> DeleteAnswer:
        """Delete items for good; the answer names those that were there."""
        return DeleteAnswer.model_validate_json(self._answer(delete_ask(ids)))

    def attention(self, image: Picture, *, heads: str | int = "all") -> Image.Image:
        """[CLS] attention drawn: a sheet of all heads, or the overlay of ``mean`` or of one."""
        return picture_of(self._answer(attention_ask(image, heads)))

    def _answer(self, ask: Ask) -> bytes:
        for wait_s in (*self._waits(), None):
            try:
                answer = self._http.request(**self._sent(ask))
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            if answer.is_success or wait_s is None or answer.status_code not in BUSY:
                break
            time.sleep(pause_s(answer, wait_s))
        return content_of(answer)


class AsyncClient(_Asking):
    """``Client`` for asyncio: the same methods, to be awaited."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str = "",
        timeout_s: float = 60.0,
        retries: int = 4,
    ) -> None:
        super().__init__(retries)
        self._http = httpx.AsyncClient(**self._options(url, key, timeout_s))

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def info(self) -> Info:
        """See ``Client.info``."""
        return Info.model_validate_json(await self._answer(Ask("/v1/info")))

    async def embed(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "*images dim"]:
        """See ``Client.embed``."""
        rows = vectors_of(await self._answer(embed_ask(images)))
        return rows[0] if isinstance(images, Picture) else rows

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
        more = {"k": k, "filter": filter, "include": list(include)}
        answer = await self._answer(look_ask("search", subject, id, more))
        return SearchAnswer.model_validate_json(answer)

    async def classify(
        self,
        subject: Picture | Vector | None = None,
        *,
        id: str | None = None,
        k: int = 20,
        label: str = "label",
    ) -> Classes:
        """See ``Client.classify``."""
        answer = await self._answer(look_ask("classify", subject, id, {"k": k, "label": label}))
        return Classes.model_validate_json(answer)

    async def upsert(self, items: Sequence[NewItem]) -> UpsertAnswer:
        """See ``Client.upsert``."""
        return UpsertAnswer.model_validate_json(await self._answer(upsert_ask(items)))

    async def delete(self, ids: Sequence[str]) -> DeleteAnswer:
        """See ``Client.delete``."""
        return DeleteAnswer.model_validate_json(await self._answer(delete_ask(ids)))

    async def attention(self, image: Picture, *, heads: str | int = "all") -> Image.Image:
        """See ``Client.attention``."""
        return picture_of(await self._answer(attention_ask(image, heads)))

    async def _answer(self, ask: Ask) -> bytes:
        for wait_s in (*self._waits(), None):
            try:
                answer = await self._http.request(**self._sent(ask))
            except httpx.HTTPError as error:
                raise unreachable(self._http.base_url, error) from error
            if answer.is_success or wait_s is None or answer.status_code not in BUSY:
                break
            await asyncio.sleep(pause_s(answer, wait_s))
        return content_of(answer)
