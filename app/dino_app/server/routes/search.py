"""The nearest items of an image, a vector or an item."""

import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response

from dino_app.server.batching import aside, together
from dino_app.server.errors import ApiError
from dino_app.server.openapi import ERRORS, form_or_json
from dino_app.server.request_images import JSON, QuickRoute, json_or_form
from dino_app.server.request_vectors import Row
from dino_app.server.requests import BatchSearchRequest, SearchRequest, Subject
from dino_app.server.responses import (
    MAX_ANSWER_BYTES,
    BatchSearchAnswer,
    Result,
    SearchAnswer,
    json_with_list,
)
from dino_app.server.service import Answered, Service, Serving
from dino_app.store.interface import MAX_K, Hit, Included, SearchParams, others

router = APIRouter(tags=["search"], responses=ERRORS, route_class=QuickRoute)


RESULT_BYTES, NUMBER_BYTES = 200, 20  # of JSON, about: a result, and each value of its vector
HITS_AT_ONCE = 2000  # of one request: while they wait to be written they are in memory
QUICK_HITS = 100  # written at once, more of them in a thread


@router.post("/v1/search", response_model=SearchAnswer, openapi_extra=form_or_json(SearchRequest))
async def search(serving: Serving, request: Request) -> Response:
    """The nearest items of exactly one of: an image, a vector, an item, an address.

    As JSON, or as a form with the image as `file` and the other fields as JSON.
    """
    asked = await json_or_form(request, SearchRequest, text={"id", "url", "image"})
    _check_size(serving, [asked])
    return Response(await _answer(serving, asked, ""), media_type=JSON)


@router.post("/v1/search:batch", response_model=BatchSearchAnswer)
async def search_batch(serving: Serving, asked: BatchSearchRequest) -> Response:
    """Several searches at once, which is faster than one after the other."""
    count, limits = len(asked.searches), serving.settings
    images = sum(bool(one.image or one.url) for one in asked.searches)
    for name, got, most in (("searches", count, limits.max_items),
                            ("images", images, limits.max_images)):  # fmt: skip
        if got > most:
            message = f"a request may hold {most} {name}, got {got}"
            raise ApiError(413, f"too_many_{name}", message, param="searches")
    _check_size(serving, asked.searches)
    answers: list[bytes] = []
    for part in _parts(asked.searches):
        answers += await together(
            [_answer(serving, asked.searches[place], f"searches[{place}].") for place in part]
        )
        if sum(map(len, answers)) > MAX_ANSWER_BYTES:
            raise _too_large()
    return Response(json_with_list("results", answers), media_type=JSON)


def _check_size(serving: Service, searches: Sequence[SearchRequest]) -> None:
    """Refuse what would be too much to answer before anything is done for it."""
    least = sum(
        one.k * (RESULT_BYTES + ("vector" in one.include) * NUMBER_BYTES * serving.dim)
        for one in searches
    )
    if least > MAX_ANSWER_BYTES:
        raise _too_large()


def _too_large() -> ApiError:
    message = (
        f"an answer may have {MAX_ANSWER_BYTES >> 20} MiB, this one would have more; lower 'k', "
        "leave 'vector' or 'metadata' out of 'include', or send fewer searches at once"
    )
    return ApiError(413, "answer_too_large", message, param="k")


def _parts(searches: Sequence[SearchRequest]) -> Iterator[range]:
    """Places of searches that are made together."""
    start = hits = 0
    for place, one in enumerate(searches):
        hits += one.k
        if hits > HITS_AT_ONCE and place > start:
            yield range(start, place)
            start, hits = place, one.k
    yield range(start, len(searches))


async def _answer(serving: Service, asked: SearchRequest, place: str) -> bytes:
    start = time.perf_counter()
    serving.require_index()  # before any work on an image
    check_k(serving, asked.k, place)
    vector, own = await subject_vector(serving, asked, place)
    embedded = time.perf_counter()
    found = await nearest_others(
        serving, vector, own, k=asked.k, filter=asked.filter,
        params=asked.params.search_params(), include=asked.include,
    )  # fmt: skip
    end = time.perf_counter()
    timing = {"subject": embedded - start, "search": end - embedded, "total": end - start}
    rest = SearchAnswer(
        results=[],
        snapshot=found.version,
        exact=found.exact,
        timing_ms={name: round(1000 * seconds, 2) for name, seconds in timing.items()},
    )
    is_quick = len(found.hits) <= QUICK_HITS and "vector" not in asked.include
    return await aside(
        lambda: json_with_list("results", _results(found.hits), rest), is_quick=is_quick
    )


async def subject_vector(
    serving: Service, asked: Subject, place: str = ""
) -> tuple[Row, str | None]:
    """Vector of the subject of a request, and its id where it is an item.

    Raises:
        ApiError: No such item, or the image or the vector cannot be used.
    """
    if asked.vector is not None:
        return await serving.query_vector(asked.vector, param=f"{place}vector"), None
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
) -> Answered:  # fmt: skip
    """The hits of a vector without the item that it came from."""
    wanted = k if own is None else min(k + 1, MAX_K)
    found = await serving.search(vector, k=wanted, filter=filter, params=params, include=include)
    return found._replace(hits=others(found.hits, own, k=k))


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
    """URL of the thumbnail of an item."""
    quoted = quote(id, safe="")
    if id in (".", ".."):  # clients take these for steps in the path
        quoted = quoted.replace(".", "%2E")
    return f"/v1/items/{quoted}/thumbnail"


def _results(hits: list[Hit]) -> list[bytes]:
    """Hits as JSON, one by one, as far as they fit into an answer."""
    written, size = [], 0
    for hit in hits:
        result = Result(
            id=hit.id,
            score=hit.score,
            image_url=image_url(hit.id),
            metadata=None if hit.metadata is None else dict(hit.metadata),
            vector=None if hit.vector is None else hit.vector.tolist(),
        )
        written.append(result.model_dump_json(exclude_none=True).encode())
        size += len(written[-1])
        if size > MAX_ANSWER_BYTES:
            raise _too_large()
    return written
