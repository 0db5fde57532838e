"""The application: routes behind the door, over an embedder and a store that are given."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel

from dino_app.server.auth import Door, Keys, RateLimit
from dino_app.server.errors import answer_errors
from dino_app.server.middleware import Traffic
from dino_app.server.openapi import document
from dino_app.server.requests import AttentionRequest, ClassifyRequest, ItemBody, SearchRequest
from dino_app.server.routes import (
    attention,
    classify,
    embeddings,
    items,
    search,
    snapshots,
    status,
)
from dino_app.server.routes.unanswered import Unanswered
from dino_app.server.service import ImageEmbedder, Service
from dino_app.server.settings import Settings
from dino_app.store.interface import Store
from dino_infer.heads import LinearHead

DESCRIPTION = """Vectors of images, and the images that are nearest to one.

Scores are cosine similarities: higher is nearer. Errors look like those of OpenAI's API."""


def create_app(
    embedder: ImageEmbedder,
    store: Store | None = None,
    settings: Settings | None = None,
    *,
    keys: Keys | None = None,
    hosts: tuple[str, ...] | None = None,
    read_only: bool = False,
    head: LinearHead | None = None,
) -> FastAPI:
    """The server as an ASGI application; ``app.state.service`` is what its routes share.

    Args:
        embedder: Embedder of images.
        store: The index; without one its endpoints answer 404.
        settings: Limits.
        keys: Keys that open it; without any it is open to everyone who can reach it.
        hosts: Names it answers to; None for any.
        read_only: Refuse what would change the index.
        head: Classifier of the embedder's vectors; without one images are classified by the index.
    """
    settings, keys = settings or Settings(), keys or Keys(())
    service = Service(embedder, store, settings, read_only=read_only)
    service.head = head

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPIOffline(
        title="dino-serve", description=DESCRIPTION, lifespan=lifespan, redirect_slashes=False,
        redoc_url=None, static_url="/docs/files",
    )  # fmt: skip
    app.state.service = service
    endpoints = list(app.routes)  # of the documentation
    for routes in (status, embeddings, search, items, snapshots, classify, attention):
        app.include_router(routes.router)
        endpoints += routes.router.routes
    app.router.routes.append(Unanswered(endpoints))
    models: list[type[BaseModel]] = [SearchRequest, ItemBody, ClassifyRequest, AttentionRequest]
    document(app, models, has_keys=bool(keys))
    answer_errors(app)
    door = Door(keys, open_paths=_open_paths(settings), hosts=hosts,
                rate=RateLimit(settings.requests_per_minute))  # fmt: skip
    app.add_middleware(
        Traffic, door=door, load=service.load, metrics=service.metrics, settings=settings
    )
    return app


def _open_paths(settings: Settings) -> tuple[str, ...]:
    docs = ("/docs", "/openapi.json") if settings.open_docs else ()
    return (*docs, "/metrics") if settings.open_metrics else docs
