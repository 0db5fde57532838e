"""dino-serve: embeddings, search, classification and attention over HTTP."""

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dino_app.cli.serve_options import (
    Network,
    Serve,
    check_installed,
    check_place,
    check_site,
    temporary_uploads,
    with_environment,
)
from dino_infer.cli.exit_codes import exit_code, usage_errors
from dino_infer.cli.options import (
    DEFAULT_WEIGHTS,
    ComputeOptions,
    ViewOptions,
    load_embedder,
)
from dino_infer.cli.parsing import parsed

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.responses import RedirectResponse

    from dino_app.server.auth import Keys
    from dino_app.store.interface import Store
    from dino_infer.embedding.embedder import Embedder
    from dino_infer.heads import LinearHead

logger = logging.getLogger(__name__)


def serve(flags: Serve) -> int:
    """Answer requests until a signal ends the server."""
    with check_installed("dino-serve"):
        from dino_app.server.auth import read_keys
        from dino_app.server.uvicorn_server import Server, listen, uvicorn_config
    place = flags.place
    with usage_errors():
        keys = read_keys(place.api_key_file, os.environ)
    check_place(place, has_keys=bool(keys))
    check_site(flags.site, demo=flags.demo)
    uploads = temporary_uploads() if flags.demo else nullcontext()
    with listen(place.host, place.port) as listening, uploads:
        store = _store(flags)
        try:
            app = _app(flags, keys, store)
            logger.info("answering at %s", _address(place.host, listening.getsockname()[1]))
            config = uvicorn_config(
                app, flags.limits, drain_s=place.drain_s, trusted_proxies=place.trusted_proxies
            )
            server = Server(
                config,
                load=app.state.service.load,
                notice_s=place.drain_notice_s,
                on_leave=partial(_end_demo, app) if flags.demo else None,
            )
            server.run(sockets=[listening])
        finally:
            if store is not None:
                store.close()
    return 0


def _store(flags: Serve) -> "Store | None":
    if flags.index is None:
        return None
    from dino_app.store.opening import open_store

    return open_store(flags.index, writable=not flags.read_only)


def _app(flags: Serve, keys: "Keys", store: "Store | None") -> "FastAPI":
    from dino_app.server.app import create_app
    from dino_app.server.auth import LOOPBACK_HOSTS
    from dino_app.store.model_match import check_model
    from dino_infer.heads import LinearHead

    head = None if flags.network.head is None else LinearHead.load(flags.network.head)
    indexed = {} if store is None else store.info().model
    made_by = indexed or ({} if head is None else head.made_by)
    embedder = _embedder(flags, made_by)
    if indexed:
        check_model(indexed, embedder.description())
    if head is not None:
        check_model(head.made_by, embedder.description(), what="head")
    hosts = None
    if flags.place.is_local and not keys:
        hosts = (*LOOPBACK_HOSTS, flags.place.host)
    app = create_app(
        embedder, store, flags.limits, keys=keys, hosts=hosts, read_only=flags.read_only, head=head
    )
    if flags.demo:
        _mount_demo(app, flags, embedder, store, made_by, head)
    elif flags.site is not None:
        from starlette.staticfiles import StaticFiles

        app.mount("/", StaticFiles(directory=flags.site, html=True))
    else:
        app.add_api_route("/", _to_docs, include_in_schema=False)
    return app


def _to_docs() -> "RedirectResponse":
    from fastapi.responses import RedirectResponse

    return RedirectResponse("/docs")


def _embedder(flags: Serve, made_by: Mapping[str, Any]) -> "Embedder":
    """The embedder that the flags ask for, and where they do not, the one that made the index."""
    network, limits = flags.network, flags.limits
    seen = made_by.get("preprocess", {})
    feature = network.feature or made_by.get("feature", "cls")
    embedder: Embedder = load_embedder(
        replace(network, weights=_weights(network, made_by)),
        ComputeOptions(
            device=network.device,
            batch_size=limits.max_batch,
            precision=network.precision,
            compile=network.compile,
        ),
        ViewOptions(
            size=network.size or seen.get("size"),
            crop=network.crop or seen.get("crop", "center"),
            exact_decode=seen.get("exact_decode", False),
            max_megapixels=limits.max_megapixels,
            max_file_mb=limits.max_image_mb,
        ),
        feature="cls" if feature == "pooled" else feature,
    )
    return embedder


def _weights(network: Network, made_by: Mapping[str, Any]) -> str:
    """Weights that were asked for, or that the index names; a hint, since files can move."""
    return network.weights or str(made_by.get("weights", DEFAULT_WEIGHTS))


def _mount_demo(
    app: "FastAPI", flags: Serve, embedder: "Embedder", store: "Store | None",
    made_by: Mapping[str, Any], head: "LinearHead | None",
) -> None:  # fmt: skip
    """Put the demo at ``/``; the application's door guards it like everything else."""
    from dino_app.demo.app import demo_app, mount_demo
    from dino_app.demo.models import Models

    models = Models([_weights(flags.network, made_by)], flags.network.device)
    largest = int(1e6 * flags.limits.max_image_mb)
    blocks = demo_app(models, store=store, embedder=embedder, head=head, max_file_size=largest)
    mount_demo(app, blocks)


def _end_demo(app: "FastAPI") -> None:
    from dino_app.demo.app import end_streams

    end_streams(app)


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port} (the endpoints: /docs)"


def _main(args: list[str]) -> int:
    flags = parsed(Serve, prog="dino-serve", args=with_environment(args, os.environ))
    if flags.index is None:
        flags = replace(flags, index=os.environ.get("DINO_INDEX") or None)
    return serve(flags)


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-serve and return its exit code."""
    return exit_code(_main, prog="dino-serve", args=args)
