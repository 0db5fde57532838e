"""Items of the index: put, get, list, delete, and their pictures."""

import base64
import binascii
import functools
import hashlib
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse

from dino_app.server.errors import ApiError
from dino_app.server.openapi import ERRORS, form_or_json
from dino_app.server.request_images import JSON, QuickRoute, json_or_form
from dino_app.server.requests import DeleteRequest, ItemBody, NamedItem, UpsertRequest
from dino_app.server.responses import (
    DeleteAnswer,
    ItemAnswer,
    ItemPage,
    UpsertAnswer,
    json_with_list,
)
from dino_app.server.routes.idempotency import Write
from dino_app.server.routes.search import image_url, not_found
from dino_app.server.routes.upserting import upsert
from dino_app.server.service import Service, Serving
from dino_app.store.filters import Filter, parsed_filter
from dino_app.store.interface import Item, Store
from dino_app.store.item_checks import is_id

router = APIRouter(tags=["items"], responses=ERRORS, route_class=QuickRoute)

MAX_PAGE = 1000
MAX_PAGE_BYTES = 8 << 20  # of JSON; the items that are read together may go beyond
READ_AT_ONCE = 100


@router.post("/v1/items")
async def put_items(serving: Serving, asked: UpsertRequest, write: Write) -> UpsertAnswer:
    """Add items or replace those with their ids; each is reported by itself."""
    check_count(serving, len(asked.items), "items")
    answer: UpsertAnswer = await write(functools.partial(upsert, serving, asked.items))
    return answer


@router.post("/v1/items:delete")
async def delete_items(serving: Serving, asked: DeleteRequest, write: Write) -> DeleteAnswer:
    """Delete items for good; says which were there."""
    check_count(serving, len(asked.ids), "ids")
    answer: DeleteAnswer = await write(functools.partial(_delete, serving, asked.ids))
    return answer


@router.get("/v1/items", response_model=ItemPage)
async def list_items(
    serving: Serving,
    cursor: Annotated[str | None, Query(max_length=2048, description="next_cursor")] = None,
    filter: Annotated[str | None, Query(max_length=8192, description="A filter as JSON")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Response:
    """Items in the order of their ids, page by page; pages of much metadata have fewer items."""
    store = serving.store
    after = None if cursor is None else _id_of(cursor)
    condition = None if filter is None else parsed_filter(_json(filter))
    page = await serving.read(lambda: _page(store, after, limit, condition))
    return Response(page, media_type=JSON)


@router.get(
    "/v1/items/{id:path}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/webp": {}}}, 304: {"description": "As you have it"}},
)
async def thumbnail(
    serving: Serving,
    request: Request,
    id: str,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The small picture of an item, by its id."""
    if not request.scope["raw_path"].endswith(b"/thumbnail"):  # the end of an id, %2Fthumbnail
        item = await get_item(serving, f"{id}/thumbnail")
        return JSONResponse(item.model_dump(exclude_none=True))
    picture = await serving.read(lambda: serving.store.thumbnail(id)) if is_id(id) else None
    if picture is None:
        raise ApiError(404, "no_thumbnail", f"no thumbnail of {id[:100]!r}", param="id")
    tag = f'"{hashlib.sha256(picture).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    known = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(picture, media_type="image/webp", headers=headers)


@router.put("/v1/items/{id:path}", openapi_extra=form_or_json(ItemBody))
async def put_item(serving: Serving, request: Request, id: str, write: Write) -> UpsertAnswer:
    """Add an item or replace it, from an image or a vector.

    As JSON, or as a form with the image as `file` and `metadata` as JSON.
    """
    body = await json_or_form(request, ItemBody, text={"url", "image"})
    item = NamedItem.model_construct(id=id, **dict(body))
    answer: UpsertAnswer = await write(functools.partial(upsert, serving, [item], alone=True))
    return answer


@router.get("/v1/items/{id:path}", response_model_exclude_none=True)
async def get_item(
    serving: Serving, id: str, include: Annotated[Literal["vector"] | None, Query()] = None
) -> ItemAnswer:
    """One item."""
    store = serving.store
    item = (await serving.read(lambda: store.get([id])))[0] if is_id(id) else None
    if item is None:
        raise not_found(id)
    return _answer(item, vector=include == "vector")


@router.delete("/v1/items/{id:path}")
async def delete_item(serving: Serving, id: str, write: Write) -> DeleteAnswer:
    """Delete one item for good."""
    answer: DeleteAnswer = await write(functools.partial(_delete, serving, [id]))
    if not answer.deleted:
        raise not_found(id)
    return answer


def check_count(serving: Service, count: int, param: str) -> None:
    """Refuse more than one write may hold.

    Raises:
        ApiError: There are more.
    """
    serving.require_index()
    if count > serving.settings.max_items:
        message = f"a request may hold {serving.settings.max_items} {param}, got {count}"
        raise ApiError(413, "too_many_items", message, param=param)


def _page(store: Store, after: str | None, limit: int, condition: Filter | None) -> bytes:
    """Items as JSON: as many as are wanted, or as fit into a page."""
    items: list[bytes] = []
    size, more = 0, True
    while more and len(items) < limit and size < MAX_PAGE_BYTES:
        at_once = min(READ_AT_ONCE, limit - len(items))
        found = store.page(after=after, limit=at_once, filter=condition)
        more = len(found) == at_once
        for item in found:
            items.append(_answer(item).model_dump_json(exclude_none=True).encode())
            size, after = size + len(items[-1]), item.id
    following = _cursor(after) if more and after is not None else None
    return json_with_list("items", items, ItemPage(items=[], next_cursor=following))


async def _delete(serving: Service, ids: list[str]) -> DeleteAnswer:
    store = serving.store
    possible = list(dict.fromkeys(id for id in ids if is_id(id)))
    return DeleteAnswer(deleted=await serving.write(lambda: store.delete(possible)))


def _answer(item: Item, *, vector: bool = False) -> ItemAnswer:
    return ItemAnswer(
        id=item.id,
        metadata=dict(item.metadata),
        image_url=image_url(item.id),
        vector=item.vector.tolist() if vector else None,
    )


def _cursor(id: str) -> str:
    return base64.urlsafe_b64encode(id.encode()).decode()


def _id_of(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        message = "expected the next_cursor of a page"
        raise ApiError(400, "invalid_cursor", message, param="cursor") from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        message = "expected a filter as JSON"
        raise ApiError(400, "invalid_filter", message, param="filter") from error
