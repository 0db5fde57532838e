"""Encoded images as they come in requests: data URIs, base64, files of a form."""

import asyncio
import binascii
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from dino_app.server.errors import ApiError

Model = TypeVar("Model", bound=BaseModel)

MAX_FORM_FIELDS = 16
MAX_VALUES = 400_000  # of JSON: what is parsed within 100 ms, during which nothing else is answered
FIELD_VALUES = 8  # a named value costs as much as so many numbers
JSON, FORM = "application/json", "multipart/form-data"
DATA, MAX_HEAD = b"data:", 1024
URL_SAFE = bytes.maketrans(b"-_", b"+/")
WHITE_SPACE = b" \t\r\n\f\v"
FORM_PIECE = 1 << 19
PIECE = 1 << 18  # letters, a multiple of four


def base64_bytes(text: str, *, param: str, max_bytes: int) -> bytes:
    """The bytes of a data URI or of base64 alone, in either alphabet, with line breaks or without.

    Their number is judged first.

    Raises:
        ApiError: Too many bytes, none, or neither.

    Source: RFC 4648, sections 4 and 5, and RFC 2397.
    """
    data = text.strip().encode(errors="replace")
    if data[:5].lower() == DATA:
        data, is_base64 = _data_uri(data, param)
        if not is_base64:
            check_bytes(len(data) // 3, param=param, max_bytes=max_bytes)
            return _not_empty(unquote_to_bytes(data), param, max_bytes)
        if b"%" in data:
            data = unquote_to_bytes(data)
    data = data.translate(URL_SAFE, WHITE_SPACE).rstrip(b"=")
    check_bytes(len(data) * 3 // 4, param=param, max_bytes=max_bytes)
    try:
        decoded = _from_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error as error:
        message = "expected base64, or a data URI such as 'data:image/png;base64,...'"
        raise ApiError(400, "invalid_base64", message, param=param) from error
    return _not_empty(decoded, param, max_bytes)


def _data_uri(data: bytes, param: str) -> tuple[bytes, bool]:
    """Return the part after the comma of a data URI, and True if its head says base64."""
    head, comma, _ = data[:MAX_HEAD].partition(b",")
    if not comma:
        message = "expected 'data:image/...;base64,...'; this data URI has no comma"
        raise ApiError(400, "invalid_data_uri", message, param=param)
    is_base64 = head.translate(None, WHITE_SPACE).lower().endswith(b";base64")
    return data[len(head) + 1 :], is_base64


def _from_base64(data: bytes) -> bytes:
    """Piece by piece: one call over many megabytes would keep every other request waiting."""
    if b"=" in data[:-2]:  # which a piece might end with
        raise binascii.Error("padding inside")
    pieces = range(0, len(data), PIECE)
    return b"".join(binascii.a2b_base64(data[i : i + PIECE], strict_mode=True) for i in pieces)


def _not_empty(data: bytes, param: str, max_bytes: int) -> bytes:
    check_bytes(len(data), param=param, max_bytes=max_bytes)
    if not data:
        raise ApiError(400, "image_empty", "the image has 0 bytes", param=param)
    return data


def check_bytes(size: int, *, param: str, max_bytes: int) -> None:
    """Refuse an image of too many bytes.

    Raises:
        ApiError: It is too large.
    """
    if size > max_bytes:
        message = f"an image may have {max_bytes} bytes, this one has more"
        raise ApiError(413, "image_too_large", message, param=param)


def json_values(part: bytes) -> int:
    """About how many values a part of JSON has, without parsing it."""
    plain = part.count(b",") + part.count(b"[") + part.count(b"{") + part.count(b"\\")
    return plain + FIELD_VALUES * part.count(b":")


def too_many_values(count: int) -> ApiError | None:
    """The answer for JSON of so many values; None if they are few enough."""
    if count <= MAX_VALUES:
        return None
    message = f"a body may have about {MAX_VALUES} values, this one has more; send fewer "
    return ApiError(413, "too_many_values", message + "at once, or vectors as base64")


async def json_or_form(request: Request, model: type[Model], *, text: set[str]) -> Model:
    """A request in either form: JSON, or a form with the image as ``file``.

    The other fields of a form are written as in JSON.

    Args:
        request: The request.
        model: Schema that it must fit; ``file`` of a form becomes its field ``image``.
        text: Fields of a form that are texts, not JSON.

    Raises:
        ApiError: Another content type, no JSON, or no form.
        RequestValidationError: It does not fit the model.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON:
        values = parse_json(await request.body())
    elif kind == FORM:
        values = await _form(request, text)
    else:
        message = f"expected content type {JSON} or {FORM}, got {kind[:100]!r}"
        raise ApiError(422, "invalid_content_type", message)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False)) from error


class QuickRoute(APIRoute):
    """An endpoint whose JSON is read by ``parse_json``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route, which reads JSON by ``parse_json``."""
        answer = super().get_route_handler()

        async def read_quickly(request: Request) -> Response:
            return await answer(_QuickRequest(request.scope, request.receive))

        return read_quickly


class _QuickRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


def parse_json(body: bytes) -> Any:
    """Parse JSON; several times as quick for numbers as Python's own parser.

    Raises:
        ApiError: It is none.
    """
    try:
        return from_json(body)
    except ValueError as error:
        raise ApiError(400, "invalid_json", "the body is not valid JSON") from error


class _FormParser(MultiPartParser):
    """Notes the last boundary, without which a form was cut off."""

    ended = False

    def on_end(self) -> None:
        """Take note; called by the parser."""
        self.ended = True


async def _form(request: Request, text: set[str]) -> dict[str, Any]:
    body = await request.body()

    async def stream() -> Any:
        for start in range(0, len(body), FORM_PIECE):
            yield body[start : start + FORM_PIECE]
            await asyncio.sleep(0)  # others have their turn
        if not parser.ended:  # raised here, it lets the parser close a file without an end
            raise MultiPartException("it ends before its last boundary")

    parser = _FormParser(
        request.headers, stream(), max_files=1, max_fields=MAX_FORM_FIELDS, max_part_size=1 << 20
    )
    parser.spool_max_size = len(body) + 1  # it is in memory already, and stays off the disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise ApiError(400, "invalid_form", f"not a form: {str(error)[:200]}") from error
    try:
        return await _values(form, text)
    finally:
        await form.close()


async def _values(form: FormData, text: set[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    found = sum(json_values(text.encode()) for text in form.values() if isinstance(text, str))
    if (error := too_many_values(found)) is not None:
        raise error
    for name, value in form.multi_items():
        if name in values:
            message = f"field {name[:64]!r} is given twice"
            raise ApiError(422, "invalid_value", message, param=name[:64])
        if isinstance(value, UploadFile):
            if name != "file":
                message = f"expected the image as field 'file', got {name[:64]!r}"
                raise ApiError(422, "invalid_value", message, param=name[:64])
            values["image"] = await value.read()
        else:
            values[name] = value if name in text else _json_field(value)
    return values


def _json_field(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # a word such as png; whether it fits is up to the model
