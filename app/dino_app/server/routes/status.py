"""Health of the server, its metrics, and facts about what it serves."""

from typing import Any

from fastapi import APIRouter, Response

from dino_app.errors import StoreError
from dino_app.server.errors import ApiError
from dino_app.server.openapi import ERRORS
from dino_app.server.responses import Info, Model, Models, Status
from dino_app.server.service import Service, Serving
from dino_infer import __version__

router = APIRouter(tags=["status"])


@router.get("/livez")
async def livez() -> Status:
    """The process answers."""
    return Status(status="ok")


@router.get("/readyz", responses={503: {"model": Status, "description": "Not ready"}})
async def readyz(serving: Serving, response: Response) -> Status:
    """Requests are welcome: every stage works and the index can be read."""
    checks = {stage.name: "ok" if stage.working else "stopped" for stage in serving.stages}
    if serving.load.draining:
        checks["draining"] = "the server is going to end"
    if serving.has_index:
        checks["index"] = await _index_state(serving)
    ready = all(state == "ok" for state in checks.values())
    response.status_code = 200 if ready else 503
    return Status(status="ok" if ready else "not ready", checks=checks)


async def _index_state(serving: Service) -> str:
    try:
        await serving.read(serving.store.info)
    except StoreError as error:
        return str(error)
    return "ok"


@router.get("/metrics", response_class=Response)
async def metrics(serving: Serving) -> Response:
    """Counters in Prometheus' text format."""
    info = await serving.read(serving.store.info) if serving.has_index else None
    text = serving.metrics.text(info)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/info")
async def info(serving: Serving) -> Info:
    """The model, the limits and the index."""
    return Info(
        version=__version__,
        model=serving.model["arch"],
        dim=serving.dim,
        description=serving.model,
        limits=serving.settings.shown(),
        read_only=serving.read_only,
        index=await _index(serving) if serving.has_index else None,
        head=None if serving.head is None else {"classes": len(serving.head.classes)},
    )


@router.get("/v1/models")
async def models(serving: Serving) -> Models:
    """The one model of the server."""
    return Models(data=[_model(serving)])


@router.get("/v1/models/{name}", responses={404: ERRORS[404]})
async def model(serving: Serving, name: str) -> Model:
    """The model of that name."""
    found = _model(serving)
    if name != found.id:
        message = f"no model {name[:100]!r}; this server has {found.id!r}"
        raise ApiError(404, "model_not_found", message, param="model")
    return found


def _model(serving: Service) -> Model:
    return Model(id=serving.model["arch"], created=serving.started)


async def _index(serving: Service) -> dict[str, Any]:
    found = await serving.read(serving.store.info)
    return {
        "backend": found.backend, "dim": found.dim, "rows": found.rows, "deleted": found.deleted,
        "snapshot": found.version, "index": found.index, "recall_at_10": found.recall_at_10,
    }  # fmt: skip
