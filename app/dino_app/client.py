"""Clients of ``dino-serve``, for threads and for asyncio.

    with Client("http://127.0.0.1:8000") as dino:
        for result in dino.search("cat.jpg", k=5).results:
            print(result.id, result.score)

A busy server (429, 503) is asked again after the seconds that it names; all else that is no success
raises ``ServerError``. Answers are the server's own schemas (``dino_app.server.responses``).
"""

import asyncio
import base64
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
from jaxtyping import Float
from PIL import Image
from pydantic import TypeAdapter

from dino_app.server.responses import Classes, DeleteAnswer, Info, SearchAnswer, UpsertAnswer
from dino_infer.errors import DinoError

Picture = str | Path | bytes | Image.Image
"""An image: the path of a file, the bytes of one, or a picture of Pillow (sent as PNG)."""
Vector = Float[np.ndarray, " dim"]

BUSY = (429, 503)


class ServerError(DinoError):
    """The server refused a request, or cannot be reached."""

    def __init__(self, message: str, *, status: int | None = None, code: str = "unreachable"):
        super().__init__(message)
        self.status = status
        """HTTP status; None where no answer came."""
        self.code = code
        """The error in one word, see docs/serving.md."""


@dataclass(frozen=True, kw_only=True)
class NewItem:
    """An item to add or to replace: exactly one of an image and a vector."""

    id: str
    image: Picture | None = None
    vector: Vector | None = None
    metadata: Mapping[str, str | bool | int | float] | None = None


@dataclass(frozen=True)
class _Ask:
    path: str
    body: dict[str, Any] | None = None


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
    def _sent(ask: _Ask) -> dict[str, Any]:
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
        return Info.model_validate_json(self._answer(_Ask("/v1/info")))

    def embed(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "*images dim"]:
        """The vector of an image, or a row for each of several, float32."""
        rows = _vectors(self._answer(_embed(images)))
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
        return SearchAnswer.model_validate_json(self._answer(_look("search", subject, id, more)))

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
        return Classes.model_validate_json(self._answer(_look("classify", subject, id, more)))

    def upsert(self, items: Sequence[NewItem]) -> UpsertAnswer:
        """Add items or replace them; each has a status of its own."""
        return UpsertAnswer.model_validate_json(self._answer(_upsert(items)))

    def delete(self, ids: Sequence[str]) -> DeleteAnswer:
        """Delete items for good; the answer names those that were there."""
        return DeleteAnswer.model_validate_json(self._answer(_delete(ids)))

    def attention(self, image: Picture, *, heads: str | int = "all") -> Image.Image:
        """[CLS] attention drawn: a sheet of all heads, or the overlay of ``mean`` or of one."""
        return _picture(self._answer(_attention(image, heads)))

    def _answer(self, ask: _Ask) -> bytes:
        for wait_s in (*self._waits(), None):
            try:
                answer = self._http.request(**self._sent(ask))
            except httpx.HTTPError as error:
                raise _unreachable(self._http.base_url, error) from error
            if answer.is_success or wait_s is None or answer.status_code not in BUSY:
                break
            time.sleep(_pause_s(answer, wait_s))
        return _content(answer)


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
        return Info.model_validate_json(await self._answer(_Ask("/v1/info")))

    async def embed(self, images: Picture | Sequence[Picture]) -> Float[np.ndarray, "*images dim"]:
        """See ``Client.embed``."""
        rows = _vectors(await self._answer(_embed(images)))
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
        answer = await self._answer(_look("search", subject, id, more))
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
        answer = await self._answer(_look("classify", subject, id, {"k": k, "label": label}))
        return Classes.model_validate_json(answer)

    async def upsert(self, items: Sequence[NewItem]) -> UpsertAnswer:
        """See ``Client.upsert``."""
        return UpsertAnswer.model_validate_json(await self._answer(_upsert(items)))

    async def delete(self, ids: Sequence[str]) -> DeleteAnswer:
        """See ``Client.delete``."""
        return DeleteAnswer.model_validate_json(await self._answer(_delete(ids)))

    async def attention(self, image: Picture, *, heads: str | int = "all") -> Image.Image:
        """See ``Client.attention``."""
        return _picture(await self._answer(_attention(image, heads)))

    async def _answer(self, ask: _Ask) -> bytes:
        for wait_s in (*self._waits(), None):
            try:
                answer = await self._http.request(**self._sent(ask))
            except httpx.HTTPError as error:
                raise _unreachable(self._http.base_url, error) from error
            if answer.is_success or wait_s is None or answer.status_code not in BUSY:
                break
            await asyncio.sleep(_pause_s(answer, wait_s))
        return _content(answer)


def _embed(images: Picture | Sequence[Picture]) -> _Ask:
    several = [images] if isinstance(images, Picture) else images
    body = {"input": [_encoded(image) for image in several], "encoding_format": "base64"}
    return _Ask("/v1/embeddings", body)


def _look(verb: str, subject: Any, id: str | None, more: dict[str, Any]) -> _Ask:
    if (subject is None) == (id is None):
        raise TypeError(f"{verb} takes exactly one of a subject (image or vector) and an id")
    return _Ask(f"/v1/{verb}", {"id": id} | more if id is not None else _subject(subject) | more)


def _upsert(items: Sequence[NewItem]) -> _Ask:
    rows = []
    for item in items:
        if (item.image is None) == (item.vector is None):
            raise TypeError(f"item {item.id!r} needs exactly one of an image and a vector")
        subject = _subject(item.vector if item.image is None else item.image)
        rows.append({"id": item.id, "metadata": dict(item.metadata or {})} | subject)
    return _Ask("/v1/items", {"items": rows})


def _delete(ids: Sequence[str]) -> _Ask:
    return _Ask("/v1/items:delete", {"ids": list(ids)})


def _attention(image: Picture, heads: str | int) -> _Ask:
    return _Ask("/v1/attention", {"image": _encoded(image), "heads": heads})


def _subject(subject: Picture | Vector) -> dict[str, str]:
    if isinstance(subject, np.ndarray):
        if subject.ndim != 1:
            raise TypeError(f"a vector has one axis, got an array of shape {subject.shape}")
        return {"vector": base64.b64encode(subject.astype("<f4").tobytes()).decode()}
    return {"image": _encoded(subject)}


def _encoded(image: Picture) -> str:
    if isinstance(image, Image.Image):
        file = io.BytesIO()
        image.save(file, "PNG")
        image = file.getvalue()
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    return base64.b64encode(content).decode()


def _vectors(answer: bytes) -> Float[np.ndarray, "images dim"]:
    rows = json.loads(answer)["data"]
    read = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows]
    return np.stack(read).astype(np.float32, copy=False)


def _picture(answer: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(answer))
    picture.load()
    return picture


def _pause_s(answer: httpx.Response, at_least_s: float) -> float:
    """Seconds that a busy server asks for, or where it names none ``at_least_s``."""
    told = answer.headers.get("retry-after", "")
    return max(float(told), at_least_s) if told.isdigit() else at_least_s


def _content(answer: httpx.Response) -> bytes:
    if answer.is_success:
        return answer.content
    try:
        error = TypeAdapter(dict[str, dict[str, Any]]).validate_json(answer.content)["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, KeyError):  # a proxy's answer, or another server's
        message, code = answer.text[:200] or answer.reason_phrase, "unknown"
    raise ServerError(f"{answer.status_code}: {message}", status=answer.status_code, code=code)


def _unreachable(url: httpx.URL, error: httpx.HTTPError) -> ServerError:
    if isinstance(error, httpx.TimeoutException):
        return ServerError(f"no answer from {url} in time; raise `timeout_s`", code="timeout")
    return ServerError(f"cannot reach {url} ({error}); is dino-serve running there?")
