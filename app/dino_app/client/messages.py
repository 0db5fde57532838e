"""Requests of the clients, and the reading of their answers."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx
import numpy as np
from jaxtyping import Float
from PIL import Image
from pydantic import TypeAdapter

from dino_app.server.responses import Classes, DeleteAnswer, Info, SearchAnswer, UpsertAnswer
from dino_infer.errors import DinoError
from dino_infer.images.pictures import png_bytes

BUSY = (429, 503)
MAX_PAUSE_S = 60.0  # between two tries; dino-serve never asks for more

Picture = str | Path | bytes | Image.Image
"""An image: the path of a file, the bytes of one, or a picture of Pillow (sent as PNG)."""
Vector = Float[np.ndarray, " dim"]


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


T = TypeVar("T")


@dataclass(frozen=True)
class Ask(Generic[T]):
    """One request: a GET without a body, a POST with one."""

    path: str
    read: Callable[[bytes], T]
    """Makes of an answer's body what the caller gets."""
    body: dict[str, Any] | None = None


INFO = Ask("/v1/info", Info.model_validate_json)


def embed_ask(
    images: Picture | Sequence[Picture],
) -> Ask[Float[np.ndarray, "*images dim"]]:
    """Ask for vectors, as base64."""
    one = isinstance(images, Picture)
    several = [images] if isinstance(images, Picture) else images
    if not len(several):
        raise ValueError("embed takes an image or several, got none")
    body = {"input": [_encoded(image) for image in several], "encoding_format": "base64"}
    return Ask("/v1/embeddings", lambda answer: _vectors(answer)[0 if one else slice(None)], body)


def search_ask(
    subject: Picture | Vector | None, id: str | None, **settings: Any
) -> Ask[SearchAnswer]:
    """Ask for the items nearest to exactly one of a subject and an item."""
    return Ask(
        "/v1/search", SearchAnswer.model_validate_json, _about("search", subject, id, settings)
    )


def classify_ask(subject: Picture | Vector | None, id: str | None, **settings: Any) -> Ask[Classes]:
    """Ask for the class of exactly one of a subject and an item."""
    return Ask(
        "/v1/classify", Classes.model_validate_json, _about("classify", subject, id, settings)
    )


def upsert_ask(items: Sequence[NewItem]) -> Ask[UpsertAnswer]:
    """Ask to add or replace items."""
    rows = []
    for item in items:
        given = [one for one in (item.image, item.vector) if one is not None]
        if len(given) != 1:
            raise TypeError(f"item {item.id!r} needs exactly one of an image and a vector")
        metadata = dict(item.metadata or {})
        rows.append({"id": item.id, "metadata": metadata} | _subject(given[0]))
    return Ask("/v1/items", UpsertAnswer.model_validate_json, {"items": rows})


def delete_ask(ids: Sequence[str]) -> Ask[DeleteAnswer]:
    """Ask to delete items."""
    return Ask("/v1/items:delete", DeleteAnswer.model_validate_json, {"ids": list(ids)})


def attention_ask(image: Picture, heads: str | int) -> Ask[Image.Image]:
    """Ask for a picture of attention."""
    return Ask("/v1/attention", _picture, {"image": _encoded(image), "heads": heads})


def _about(
    verb: str, subject: Picture | Vector | None, id: str | None, settings: dict[str, Any]
) -> dict[str, Any]:
    if (subject is None) == (id is None):
        raise TypeError(f"{verb} takes exactly one of a subject (image or vector) and an id")
    return ({"id": id} if subject is None else _subject(subject)) | settings


def _subject(subject: Picture | Vector) -> dict[str, str]:
    if isinstance(subject, np.ndarray):
        if subject.ndim != 1:
            raise TypeError(f"a vector has one axis, got an array of shape {subject.shape}")
        return {"vector": base64.b64encode(subject.astype("<f4").tobytes()).decode()}
    return {"image": _encoded(subject)}


def _encoded(image: Picture) -> str:
    if isinstance(image, Image.Image):
        image = png_bytes(image)
    if not isinstance(image, Picture):
        raise TypeError(
            "expected an image (a path, bytes or a Pillow image) or, where one is taken, a vector "
            f"(a NumPy array), got {type(image).__name__}"
        )
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    return base64.b64encode(content).decode()


def _vectors(answer: bytes) -> Float[np.ndarray, "images dim"]:
    """Vectors in an answer, in the order of the images."""
    rows = json.loads(answer)["data"]
    read = [np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in rows]
    return np.stack(read).astype(np.float32, copy=False)


def _picture(answer: bytes) -> Image.Image:
    """The picture that an answer is."""
    picture = Image.open(io.BytesIO(answer))
    picture.load()
    return picture


def pause_s(answer: httpx.Response, at_least_s: float) -> float | None:
    """Seconds to wait before the next try, as a busy server asks; None where its answer stands.

    Args:
        answer: The answer to the last try.
        at_least_s: Seconds to wait where it names fewer.
    """
    if answer.status_code not in BUSY:
        return None
    told = answer.headers.get("retry-after", "")
    wait_s = max(float(told), at_least_s) if told.isdecimal() else at_least_s
    return wait_s if wait_s <= MAX_PAUSE_S else None


def content_of(answer: httpx.Response) -> bytes:
    """The body of an answer.

    Raises:
        ServerError: It is no success.
    """
    if answer.is_success:
        return answer.content
    try:
        error = TypeAdapter(dict[str, dict[str, Any]]).validate_json(answer.content)["error"]
        message, code = str(error["message"]), str(error["code"])
    except (ValueError, KeyError):  # a proxy's answer, or another server's
        message, code = answer.text[:200] or answer.reason_phrase, "unknown"
    if answer.status_code in BUSY and (told := answer.headers.get("retry-after")):
        message += f"; try again after {told} s"
    raise ServerError(f"{answer.status_code}: {message}", status=answer.status_code, code=code)


def unreachable(url: httpx.URL, error: httpx.HTTPError) -> ServerError:
    """The error of a request that got no answer."""
    if isinstance(error, httpx.TimeoutException):
        return ServerError(f"no answer from {url} in time; raise `timeout_s`", code="timeout")
    if isinstance(error, httpx.UnsupportedProtocol):
        return ServerError(f"expected an address like http://127.0.0.1:8000, got {str(url)!r}")
    return ServerError(f"cannot reach {url} ({error}); is dino-serve running there?")
