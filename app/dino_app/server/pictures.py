"""Encoded images as they come in requests: data URIs, base64, files of a form."""

import base64
import binascii
import json
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from dino_app.server.errors import ApiError

Model = TypeVar("Model", bound=BaseModel)

MAX_FORM_FIELDS = 16
JSON, FORM = "application/json", "multipart/form-data"


def decoded_base64(text: str, *, param: str, max_bytes: int) -> bytes:
    """The bytes of ``data:...;base64,...`` or of base64 alone; their number is judged first.

    Raises:
        ApiError: Too many bytes, none, or no base64.
    """
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            message = "expected 'data:image/...;base64,...'"
            raise ApiError(400, "invalid_data_uri", message, param=param)
    check_bytes(len(text) * 3 // 4 - 2, param=param, max_bytes=max_bytes)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        message = "expected a data URI or base64"
        raise ApiError(400, "invalid_base64", message, param=param) from error
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


async def json_or_form(request: Request, model: type[Model], *, text: set[str]) -> Model:
    """A request in either form: JSON, or a form with the image as ``file``.

    The other fields of a form are written as in JSON.

    Args:
        request: With its body.
        model: What it must be; ``file`` of a form becomes its field ``image``.
        text: Fields of a form that are texts, not JSON.

    Raises:
        ApiError: Another content type, no JSON, or no form.
        RequestValidationError: It does not fit the model.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON:
        values = _json(await request.body())
    elif kind == FORM:
        values = await _form(request, text)
    else:
        message = f"expected content type {JSON} or {FORM}, got {kind[:100]!r}"
        raise ApiError(422, "invalid_content_type", message)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_input=False)) from error


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_json", "the body is not valid JSON") from error


async def _form(request: Request, text: set[str]) -> dict[str, Any]:
    body = await request.body()

    async def stream() -> Any:
        yield body

    parser = MultiPartParser(
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
