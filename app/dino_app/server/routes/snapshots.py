"""Named states of the index."""

import functools

from fastapi import APIRouter

from dino_app.errors import StoreError
from dino_app.server.errors import ApiError
from dino_app.server.openapi import ERRORS
from dino_app.server.request_images import QuickRoute
from dino_app.server.requests import SnapshotRequest
from dino_app.server.responses import SnapshotAnswer, Snapshots
from dino_app.server.routes.idempotency import Write
from dino_app.server.service import Service, Serving

router = APIRouter(tags=["snapshots"], responses=ERRORS, route_class=QuickRoute)


@router.get("/v1/snapshots")
async def snapshots(serving: Serving) -> Snapshots:
    """The names that can be restored."""
    return Snapshots(snapshots=await serving.read(serving.store.snapshots))


@router.post("/v1/snapshots")
async def snapshot(serving: Serving, asked: SnapshotRequest, write: Write) -> SnapshotAnswer:
    """Keep the present state under a name."""
    serving.require_index()
    answer: SnapshotAnswer = await write(functools.partial(_keep, serving, asked.name))
    return answer


@router.post("/v1/snapshots/{name}/restore")
async def restore(serving: Serving, name: str, write: Write) -> SnapshotAnswer:
    """Go back to a named state; what was written since is lost, the snapshot stays."""
    serving.require_index()
    answer: SnapshotAnswer = await write(functools.partial(_restore, serving, name))
    return answer


async def _keep(serving: Service, name: str) -> SnapshotAnswer:
    try:
        await serving.write(lambda: serving.store.snapshot(name))
    except ValueError as error:
        taken = name in await serving.read(serving.store.snapshots)
        status, code = (409, "name_taken") if taken else (400, "invalid_name")
        raise ApiError(status, code, str(error), param="name") from error
    return SnapshotAnswer(name=name)


async def _restore(serving: Service, name: str) -> SnapshotAnswer:
    if name not in await serving.read(serving.store.snapshots):
        raise ApiError(404, "no_snapshot", f"no snapshot {name[:64]!r}", param="name")
    try:
        await serving.write(lambda: serving.store.restore(name))
    except ValueError as error:
        raise StoreError(str(error)) from error
    return SnapshotAnswer(name=name)
