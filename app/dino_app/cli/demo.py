"""dino-demo: see what DINO sees, in a browser."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from dino_infer.cli.exit_codes import UsageError, exit_code, usage_errors
from dino_infer.cli.options import DEFAULT_WEIGHTS, check_positive
from dino_infer.cli.parsing import parsed

if TYPE_CHECKING:
    from fastapi import FastAPI

    from dino_app.server.auth import Door
    from dino_app.server.settings import Settings
    from dino_app.server.uvicorn_server import Server

logger = logging.getLogger(__name__)

UPLOADS_MB, UPLOADS_S = 1000, 300  # of photos that are sent together: 200 of a phone
DRAIN_S = 2  # for pages that are open when it ends


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Show what networks see in pictures, in a browser, until Ctrl-C.

    Works offline; uploads are deleted after an hour, and all of them at the end.
    """

    weights: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Run folder, checkpoint, timm:NAME or hf:ORG/NAME, as for dino-embed; several can be chosen
    from on the page. By default timm:vit_small_patch16_224.dino (download)."""
    index: str | None = None
    """Folder that dino-index built, or milvus:LOCATION, to search; by default the photos that are
    uploaded are searched."""
    features: Path | None = None
    """Labelled features that dino-embed wrote, to classify by; by default photos that are uploaded
    for each class."""
    head: Path | None = None
    """Classifier that dino-eval linear or logistic wrote, head.safetensors, to classify by; its
    network is then the default of --weights."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs keys."""
    port: int = 7860
    """Port to listen on; 0 takes a free one."""
    api_key_file: str | None = None
    """File with one key a line, asked for as the password; DINO_API_KEYS may hold more, separated
    by commas or spaces."""
    insecure: tyro.conf.FlagCreatePairsOff[bool] = False
    """Listen to other machines without keys."""
    max_file_mb: float = 20
    """Limit of an uploaded file in megabytes."""
    device: str = "auto"
    """Device to compute on: cpu, cuda or cuda:N; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        check_positive("--max-file-mb", self.max_file_mb)
        if self.head is not None and self.features is not None:
            raise UsageError("pass either --head or --features to classify by")


def demo(flags: Demo) -> int:
    """Serve the page until a signal ends it."""
    from dino_app.cli.serve_options import check_installed, temporary_uploads

    with check_installed("dino-demo"):
        from dino_app.server.uvicorn_server import listen
    door = _door(flags)
    with listen(flags.host, flags.port) as listening, temporary_uploads():
        app = _app(flags, door)
        shown = f"[{flags.host}]" if ":" in flags.host else flags.host
        logger.info("open http://%s:%d in a browser", shown, listening.getsockname()[1])
        _server(app).run(sockets=[listening])
    return 0


def _door(flags: Demo) -> "Door":
    from dino_app.cli.serve_options import Place, check_place
    from dino_app.server.auth import LOOPBACK_HOSTS, Door, RateLimit, read_keys

    with usage_errors():
        keys = read_keys(flags.api_key_file, os.environ)
    place = Place(host=flags.host, port=flags.port, insecure=flags.insecure)
    check_place(place, has_keys=bool(keys))
    hosts = (*LOOPBACK_HOSTS, flags.host) if place.is_local and not keys else None
    return Door(keys, open_paths=(), hosts=hosts, rate=RateLimit(0))


def _app(flags: Demo, door: "Door") -> "FastAPI":
    from dino_app.cli.serve_options import check_installed

    with check_installed("dino-demo"):
        import gradio  # noqa: F401
    from fastapi import FastAPI

    from dino_app.demo.app import demo_app, mount_demo
    from dino_app.demo.models import Models
    from dino_app.server.bodies import Load
    from dino_app.server.metrics import Metrics
    from dino_app.server.middleware import Traffic
    from dino_app.store.opening import open_store
    from dino_infer.features.files import read_features
    from dino_infer.heads import LinearHead

    features = None if flags.features is None else read_features(flags.features, verify=True)
    store = None if flags.index is None else open_store(flags.index)
    head = None if flags.head is None else LinearHead.load(flags.head)
    own = DEFAULT_WEIGHTS if head is None else str(head.made_by.get("weights", DEFAULT_WEIGHTS))
    models = Models(flags.weights or (own,), flags.device)
    blocks = demo_app(
        models, store=store, features=features, head=head,
        max_file_size=int(1e6 * flags.max_file_mb),
    )  # fmt: skip
    app = FastAPI(openapi_url=None)
    app.state.load, app.state.settings = load, settings = Load(), _settings(flags)
    app.add_middleware(Traffic, door=door, load=load, metrics=Metrics(), settings=settings)
    return mount_demo(app, blocks)


def _settings(flags: Demo) -> "Settings":
    """Limits that let a phone send as many photos together as the page takes."""
    from dino_app.server.settings import Settings

    uploads_mb = max(UPLOADS_MB, 2 * flags.max_file_mb)
    return Settings(
        max_body_mb=uploads_mb, max_bodies_mb=2 * uploads_mb, body_timeout_s=UPLOADS_S,
        access_log=False,
    )  # fmt: skip


def _server(app: "FastAPI") -> "Server":
    from dino_app.demo.app import end_streams
    from dino_app.server.uvicorn_server import Server, uvicorn_config

    config = uvicorn_config(app, app.state.settings, drain_s=DRAIN_S)
    return Server(config, load=app.state.load, on_leave=partial(end_streams, app))


def main(args: Sequence[str] | None = None) -> int:
    """Run dino-demo and return its exit code."""
    prog = "dino-demo"
    return exit_code(lambda args: demo(parsed(Demo, prog=prog, args=args)), prog=prog, args=args)
