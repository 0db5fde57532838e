"""The page as a whole: title, picker of networks, tabs; and how it is put beside an API."""

from typing import TYPE_CHECKING

import gradio as gr

from dino_app.demo.first_view import first_view
from dino_app.demo.models import Model, Models
from dino_app.demo.only_uploads import close_to_all_but_uploads
from dino_app.demo.style import CSS, FOOTER, HEAD, HEADER, theme
from dino_app.demo.tabs.attention import attention_tab
from dino_app.demo.tabs.classify import classify_tab
from dino_app.demo.tabs.classify_by_head import head_tab
from dino_app.demo.tabs.compare import compare_tab
from dino_app.demo.tabs.objects import objects_tab
from dino_app.demo.tabs.paint import paint_tab
from dino_app.demo.tabs.patches import patches_tab
from dino_app.demo.tabs.pca import pca_tab
from dino_app.demo.tabs.search import search_tab
from dino_app.demo.tabs.track import track_tab
from dino_app.demo.tabs.video import video_tab
from dino_app.demo.uploads import MAX_FILE_SIZE, WholeUploads, plain_errors

if TYPE_CHECKING:
    from fastapi import FastAPI

    from dino_app.store.interface import Store
    from dino_infer.embedding.embedder import Embedder
    from dino_infer.features.files import Features
    from dino_infer.heads import LinearHead

QUEUE = 32  # calls that may wait; more are told to come back later
SWEEP_S, KEEP_S = 600, 3600  # how often pictures are cleared away, and how old they are then


def demo_app(
    models: Models,
    *,
    store: "Store | None" = None,
    embedder: "Embedder | None" = None,
    features: "Features | None" = None,
    head: "LinearHead | None" = None,
    max_file_size: int = MAX_FILE_SIZE,
) -> gr.Blocks:
    """The demo, ready for ``mount_demo``.

    Args:
        models: The networks to choose from.
        store: An index to search; without one, people search photos that they upload.
        embedder: Embedder that makes vectors as those of ``store`` and ``features`` were made.
        features: Labelled vectors to classify by.
        head: Classifier to classify by, instead of labelled photos.
        max_file_size: Bytes of one upload.
    """
    blocks: gr.Blocks = gr.Blocks(
        title="DINO demo", analytics_enabled=False, delete_cache=(SWEEP_S, KEEP_S)
    )
    with blocks:
        gr.HTML(HEADER, padding=False, elem_classes="flush")
        picker = _picker(models)
        view = first_view(models.model(models.names[0]))
        with gr.Tabs(elem_id="tabs", selected=view.tab):
            fields = {}
            with gr.Tab("Attention", id="attention"):
                fields["attention"] = attention_tab(models, picker)
            with gr.Tab("Objects", id="objects"):
                fields["objects"] = objects_tab(models, picker)
            with gr.Tab("Click a patch", id="patches"):
                fields["patches"] = patches_tab(models, picker)
            with gr.Tab("Paint", id="paint"):
                paint_tab(models, picker)
            with gr.Tab("Track", id="track"):
                track_tab(models, picker)
            with gr.Tab("PCA colours", id="pca"):
                pca_tab(models, picker)
            with gr.Tab("Search", id="search"):
                search_tab(models, picker, store=store, embedder=embedder)
            with gr.Tab("Classify", id="classify"):
                if head is not None:
                    head_tab(models, picker, head, embedder=embedder)
                else:
                    classify_tab(models, picker, embedder=embedder, features=features, store=store)
            with gr.Tab("Compare", id="compare"):
                compare_tab(models)
            with gr.Tab("Video", id="video"):
                video_tab(models, picker)
        gr.HTML(FOOTER, padding=False, elem_classes="flush")
        if view.photo is not None:
            photo = view.photo
            blocks.load(lambda: photo, None, fields[view.tab], api_visibility="private")
    blocks.max_file_size = max_file_size
    blocks.queue(max_size=QUEUE, default_concurrency_limit=1)
    return blocks


def mount_demo(
    app: "FastAPI",
    blocks: gr.Blocks,
    *,
    path: str = "/",
) -> "FastAPI":
    """Put the demo beside what an app serves already; routes that were added before go first.

    It has no door and no limits of its own: ``Traffic`` around the app has.

    Args:
        app: Application, which is changed in place.
        blocks: The result of ``demo_app``.
        path: Path of the demo.
    """
    close_to_all_but_uploads(blocks)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        blocks,
        path=path,
        allowed_paths=[],
        max_file_size=blocks.max_file_size,
        show_error=False,  # of unforeseen errors; those we raise are always shown
        run_history=False,
        footer_links=["api"],
        ssr_mode=False,
        mcp_server=False,
        theme=theme(),
        css=CSS,
        head=HEAD,
    )
    for gradio_app in _mounted(app):
        gradio_app.add_middleware(WholeUploads)
    return mounted


def end_streams(app: "FastAPI") -> None:
    """End the connections that open pages keep; to be called in the loop when a server ends.

    Otherwise it would wait for them in vain and log an error for each.
    """
    for gradio_app in _mounted(app):
        gradio_app.stop_event.set()


def _mounted(app: "FastAPI") -> "list[gr.routes.App]":
    apps = (getattr(route, "app", None) for route in app.routes)
    return [found for found in apps if isinstance(found, gr.routes.App)]


def _picker(models: Models) -> gr.Dropdown:
    """Build the picker of the network that the tabs use, and a line about it."""
    first = models.names[0]
    with gr.Row(elem_id="network"):
        picker = gr.Dropdown(
            choices=list(models.names),
            value=first,
            label="Network",
            visible=len(models.names) > 1,
            filterable=False,
            elem_id="picker",
            scale=1,
            min_width=200,
        )
        about = gr.Markdown(described(models.model(first)), elem_id="about-network")

    @plain_errors()
    def described_by_name(name: str) -> str:
        return described(models.model(name))

    picker.change(
        described_by_name, picker, about, show_progress="hidden", api_visibility="private"
    )
    return picker


def described(model: Model) -> str:
    """A line about a network for people who have not met it."""
    info, million = model.info, sum(p.numel() for p in model.backbone.parameters()) / 1e6
    kind = "Vision Transformer" if model.has_attention else "convolutional network"
    text = f"**{info.arch}**, a {kind} with {million:.1f} million weights"
    if model.has_attention:
        text += f", {model.heads} attention heads and patches of {model.patch_size} px"
    if info.recipe:
        text += f"; trained with the recipe *{info.recipe}*"
    return text + (f" for {info.epoch:g} epochs." if info.epoch else ".")
