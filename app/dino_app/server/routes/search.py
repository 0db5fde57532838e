"""The nearest items of an image, a vector or an item."""

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request

from dino_app.server.batching import together
from dino_app.server.errors import ApiError
from dino_app.server.openapi import ERRORS, form_or_json
from dino_app.server.request_images import QuickRoute, json_or_form
from dino_app.server.request_vectors import Row
from dino_app.server.requests import BatchSearchRequest, SearchRequest, Subject
from dino_app.server.responses import BatchSearchAnswer, Result, SearchAnswer
from dino_app.server.service import Service, Serving
from dino_app.store.interface import MAX_K, Hit, Included, SearchParams

router = APIRouter(tags=["search"], responses=ERRORS, route_class=QuickRoute)


@router.post("/v1/search", openapi_extra=form_or_json(SearchRequest))
async def search(serving: Serving, request: Request) -> SearchAnswer:
    """The nearest items of exactly one of: an image, a vector, an item, an address.

    As JSON, or as a form with the image as `file` and the other fields as JSON.
    """
    asked = await json_or_form(request, SearchRequest, text={"id", "url", "image"})
    return await _answer(serving, asked, "")


@router.post("/v1/search:batch")
async def search_batch(serving: Serving, asked: BatchSearchRequest) -> BatchSearchAnswer:
    """Several searches at once, which is faster than one after the other."""
    count = len(asked.searches)
    if count > serving.settings.max_items:
        message = f"a request may hold {serving.settings.max_items} searches, got {count}"
        raise ApiError(413, "too_many_searches", message, param="searches")
    searches = enumerate(asked.searches)
    answers = [_answer(serving, one, f"searches[{place}].") for place, one in searches]
    return BatchSearchAnswer(results=await together(answers))


async def _answer(serving: Service, asked: SearchRequest, place: str) -> SearchAnswer:
    start = time.perf_counter()
    _ = serving.store  # before any work on an image
    check_k(serving, asked.k, place)
    vector, own = await subject_vector(serving, asked, place)
    embedded = time.perf_counter()
    hits, version, exact = await nearest_others(
        serving, vector, own, k=asked.k, filter=asked.filter,
        params=asked.params.search_params(), include=asked.include,
    )  # fmt: skip
    end = time.perf_counter()
    timing = {"subject": embedded - start, "search": end - embedded, "total": end - start}
    return SearchAnswer(
        results=[_result(hit) for hit in hits],
        snapshot=version,
        exact=exact,
        timing_ms={name: round(1000 * seconds, 2) for name, seconds in timing.items()},
    )


async def subject_vector(
    serving: Service, asked: Subject, place: str = ""
) -> tuple[Row, str | None]:
    """What a request is about as a vector, and its id where it is an item.

    Raises:
        ApiError: No such item, or the image or the vector cannot be used.
    """
    if asked.vector is not None:
        return serving.query_vector(asked.vector, param=f"{place}vector"), None
    if asked.id is not None:
        item = (await serving.read(lambda: serving.store.get([asked.id or ""])))[0]
        if item is None:
            raise not_found(asked.id, param=f"{place}id")
        return item.vector, item.id
    param = f"{place}{'url' if asked.image is None else 'image'}"
    image = await serving.image(asked.image, asked.url, param=param)
    return await serving.embedded(image, param=param), None


async def nearest_others(
    serving: Service, vector: Row, own: str | None, *, k: int, filter: dict[str, Any] | None,
    params: SearchParams | None = None, include: Sequence[Included],
) -> tuple[list[Hit], str, bool]:  # fmt: skip
    """The hits of a vector without the item that it came from, and how they were found."""
    wanted = k if own is None else min(k + 1, MAX_K)
    hits, version, exact = await serving.search(
        vector, k=wanted, filter=filter, params=params, include=include
    )
    return [hit for hit in hits if hit.id != own][:k], version, exact


def check_k(serving: Service, k: int, place: str = "") -> None:
    """Refuse more results than the server gives.

    Raises:
        ApiError: More are wanted.
    """
    if k > serving.settings.max_k:
        message = f"k may be {serving.settings.max_k} here, got {k}"
        raise ApiError(400, "k_too_large", message, param=f"{place}k")


def not_found(id: str, *, param: str = "id") -> ApiError:
    """The answer for an id that is not in the index."""
    return ApiError(404, "item_not_found", f"no item {id[:100]!r}", param=param)


def image_url(id: str) -> str:
    """Where the thumbnail of an item is."""
    quoted = quote(id, safe="")
    if id in (".", ".."):  # clients take these for steps in the path
        quoted = quoted.replace(".", "%2E")
    return f"/v1/items/{quoted}/thumbnail"


def _result(hit: Hit) -> Result:
    return Result(
        id=hit.id,
        score=hit.score,
        image_url=image_url(hit.id),
        metadata=None if hit.metadata is None else dict(hit.metadata),
        vector=None if hit.vector is None else hit.vector.tolist(),
    )
