"""OpenAPI descriptions of routes that FastAPI cannot derive by itself."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dino_app.server.request_images import FORM, JSON
from dino_app.server.responses import ErrorAnswer

_MEANINGS = {
    400: "Empty or invalid",
    401: "No valid key",
    403: "Read-only server, or a page of another site",
    404: "Unknown item, model or snapshot, or no index",
    408: "The body took too long",
    409: "Conflict",
    413: "Too many bytes, pixels or items",
    415: "No image format that is read here",
    422: "Not what the schema says",
    424: "The network failed",
    429: "Busy; come back after the seconds in Retry-After",
    431: "A large header",
    500: "A bug",
    503: "Not ready, draining, or the index cannot be used",
    504: "Out of time",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": meaning} for status, meaning in _MEANINGS.items()
}


def form_or_json(model: type[BaseModel]) -> dict[str, Any]:
    """The request body of a route that reads ``json_or_form``."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    form = {"type": "object", "required": ["file"], "properties": {
        "file": {"type": "string", "format": "binary", "description": "The encoded image."}
    }}  # fmt: skip
    content = {JSON: {"schema": reference}, FORM: {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def document(app: FastAPI, models: list[type[BaseModel]], *, has_keys: bool) -> None:
    """Describe what ``form_or_json`` takes, and the key, in the document of an application."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, models, has_keys)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, models: list[type[BaseModel]], has_keys: bool) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    template = "#/components/schemas/{model}"
    _, more = models_json_schema([(m, "validation") for m in models], ref_template=template)
    components = found.setdefault("components", {})
    components.setdefault("schemas", {}).update(more["$defs"])
    if has_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
        found["paths"]["/livez"]["get"]["security"] = []
    return found
