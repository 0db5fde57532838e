"""Every error as the answer that clients of OpenAI's API expect.

    {"error": {"message", "type", "code", "param", "request_id"}}

400 empty or invalid · 401 key · 403 read-only or another site · 404 unknown · 408 slow body ·
409 conflict · 413 too large · 415 no such image format · 422 not the schema · 424 the network
failed · 429 busy, with Retry-After · 503 not ready or draining · 504 out of time.
"""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from dino_app.errors import StoreError, StoreLockedError
from dino_app.store.filters import FilterError
from dino_infer.errors import DinoError, ImageError

logger = logging.getLogger(__name__)

IMAGE_STATUS = {"too_large": 413, "unsupported": 415}
_CODES = {404: "not_found", 405: "method_not_allowed"}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(HTTPException):
    """An answer other than success."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code
        self.param = param


class BusyError(ApiError):
    """Too much to do; the client should come back later."""

    def __init__(self, code: str, message: str, *, retry_after_s: float = 1) -> None:
        seconds = str(max(1, min(60, round(retry_after_s))))
        super().__init__(429, code, message, headers={"Retry-After": seconds})


def error_response(error: HTTPException, scope: Scope) -> JSONResponse:
    """The answer that an error stands for; its code is left in the scope for the log."""
    status, code = error.status_code, getattr(error, "code", None)
    state = scope.setdefault("state", {})
    state["error_code"] = code = code or _CODES.get(status, "invalid_request")
    body = {
        "message": str(error.detail),
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "code": code,
        "param": getattr(error, "param", None),
        "request_id": state.get("request_id"),
    }
    return JSONResponse({"error": body}, status, headers=error.headers)


def answer_errors(app: FastAPI) -> None:
    """Make an application answer every error in this form."""
    for kind in (HTTPException, RequestValidationError, FilterError, DinoError, Exception):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    return error_response(as_http(error), request.scope)


def as_http(error: Exception) -> HTTPException:
    """The answer that any error stands for."""
    match error:
        case HTTPException():
            return error
        case RequestValidationError():
            return invalid(error.errors())
        case FilterError():
            return ApiError(400, "invalid_filter", str(error), param="filter")
        case ImageError():
            status = IMAGE_STATUS.get(error.kind, 400)
            return ApiError(status, f"image_{error.kind}", error.reason, param=error.path)
        case StoreLockedError():
            return ApiError(409, "index_locked", str(error))
        case StoreError():
            logger.error("the index cannot be used: %s", error)
            return ApiError(503, "index_unavailable", str(error))
        case DinoError():
            logger.error("the network failed: %s", error)
            return ApiError(424, "model_failed", str(error))
        case _:
            return ApiError(500, "internal_error", "an error in the server; its log says more")


def invalid(problems: Any) -> ApiError:
    """Problems that pydantic found, in one line; values that came are not repeated."""
    first = problems[0]
    place = [str(part)[:64] for part in first["loc"] if part not in ("body", "query", "header")]
    param = ".".join(place)[:256] or None
    if first["type"] == "json_invalid":
        return ApiError(400, "invalid_json", "the body is not valid JSON")
    return ApiError(422, "invalid_value", f"{param or 'body'}: {first['msg'][:500]}", param=param)
