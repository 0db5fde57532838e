"""Items on their way into the index: images are embedded, and each is judged by itself."""

import asyncio
import functools
import hashlib
from typing import Any, cast

from starlette.exceptions import HTTPException

from dino_app.indexing.thumbnails import thumbnail
from dino_app.server.batching import together
from dino_app.server.errors import ApiError, as_http
from dino_app.server.request_vectors import Row
from dino_app.server.requests import NamedItem
from dino_app.server.responses import ErrorBody, ItemStatus, UpsertAnswer
from dino_app.server.service import Service
from dino_app.store.interface import Item, Metadata
from dino_app.store.item_checks import checked_items
from dino_infer.errors import DinoError
from dino_infer.images.read import image_size

MAX_MESSAGE_LETTERS = 500  # values that came may be long


async def upsert(serving: Service, items: list[NamedItem], *, alone: bool = False) -> UpsertAnswer:
    """Write all valid items together, and return the outcome for each item; ``alone`` raises it.

    Raises:
        ApiError: There is no index, it is read-only, two items have one id, or ``alone``.
    """
    store = serving.store
    _check_ids(items)
    images = sum(item.vector is None for item in items)
    serving.check_writable()
    if images > serving.settings.max_images:
        message = f"a request may hold {serving.settings.max_images} images, got {images}"
        raise ApiError(413, "too_many_images", message, param="items")
    serving.check_space(images)
    found = await together([_make(serving, item, place) for place, item in enumerate(items)])
    made = await asyncio.to_thread(_checked, found, serving.dim)
    good = [item for item in made if isinstance(item, Item)]
    version = await serving.write(lambda: store.upsert(good)) if good else None
    if alone and isinstance(made[0], HTTPException):
        try:
            raise made[0]
        finally:
            del found, made  # its traceback leads to this frame, which must not lead back
    statuses = [_status(item.id, result) for item, result in zip(items, made, strict=True)]
    return UpsertAnswer(items=statuses, snapshot=version)


def _check_ids(items: list[NamedItem]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            message = f"id {item.id[:100]!r} is there twice"
            raise ApiError(400, "duplicate_id", message, param="items")
        seen.add(item.id)


async def _make(serving: Service, item: NamedItem, place: int) -> Item | HTTPException:
    try:
        return await _item(serving, item, f"items[{place}].")
    except (HTTPException, DinoError) as error:
        return as_http(error)


def _checked(made: list[Item | HTTPException], dim: int) -> list[Item | HTTPException]:
    """Items as the store takes them, or what is wrong with them."""

    def check(place: int, one: Item | HTTPException) -> Item | HTTPException:
        try:
            return checked_items([one], dim=dim)[0] if isinstance(one, Item) else one
        except ValueError as error:
            message = str(error)[:MAX_MESSAGE_LETTERS]
            return ApiError(400, "invalid_item", message, param=f"items[{place}]")

    return [check(place, one) for place, one in enumerate(made)]


async def _item(serving: Service, item: NamedItem, place: str) -> Item:
    metadata: Metadata = item.metadata
    if item.vector is not None:
        vector = await serving.query_vector(item.vector, param=f"{place}vector")
        return Item(id=item.id, vector=vector, metadata=metadata)
    param = f"{place}{'url' if item.image is None else 'image'}"
    data = await serving.image(item.image, item.url, param=param)
    describe = functools.partial(_facts_and_thumbnail, data, param, serving.max_pixels)
    vector, (found, picture) = cast(
        tuple[Row, tuple[dict[str, Any], bytes]],
        await together([serving.embedded(data, param=param), serving.picture(describe)]),
    )
    return Item(id=item.id, vector=vector, metadata=found | dict(metadata), thumbnail=picture)


def _facts_and_thumbnail(data: bytes, name: str, max_pixels: int) -> tuple[dict[str, Any], bytes]:
    """Metadata and a thumbnail, which the index keeps of an image beside its vector."""
    height, width = image_size(data, name, max_pixels=max_pixels)
    digest = hashlib.sha256(data).hexdigest()
    found = {"width": width, "height": height, "bytes": len(data), "sha256": digest}
    return found, thumbnail(data, name=name, max_pixels=max_pixels)


def _status(id: str, result: Item | HTTPException) -> ItemStatus:
    if isinstance(result, Item):
        return ItemStatus(id=id, status="ok")
    error = ErrorBody(
        message=str(result.detail), type="invalid_request_error", request_id=None,
        code=getattr(result, "code", "invalid_request"), param=getattr(result, "param", None),
    )  # fmt: skip
    return ItemStatus(id=id, status="failed", error=error)
