"""The tab where two networks look at one picture side by side."""

from typing import Any

import gradio as gr

from dino_app.demo.availability import missing
from dino_app.demo.examples import picture_examples
from dino_app.demo.models import Look, Models
from dino_app.demo.style import to_result
from dino_app.demo.uploads import checked_picture, picture_input, plain_errors, said
from dino_infer.attention.patches import patch_pca
from dino_infer.drawing.overlays import heat_overlay, pca_colors

ABOUT = """
Two networks, one picture: the mean attention of all heads, and the main components of the patches
as colours. *Untrained* is the same network before it has learned anything.
"""
COMPONENTS = 3  # as many as there are colours


def compare_tab(models: Models) -> None:
    """Build the tab: a picture on the left, a column for each network on the right."""
    names = models.names_with_untrained
    before, after = names[:2] if len(models.names) > 1 else names[::-1]
    with gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="ask"):
            picture = picture_input("Your picture", elem_id="compare-picture")
            picture_examples(picture)
        with gr.Column(elem_classes="result", elem_id="compare-result"):
            gr.Markdown(ABOUT, elem_classes="hint")
            with gr.Row(elem_classes="pair"):
                pickers = [
                    _picker(label, name, names, value)
                    for label, name, value in (
                        ("First network", "compare-first", before),
                        ("Second network", "compare-second", after),
                    )
                ]
            with gr.Row(elem_classes="pair"):
                attentions = [_result("Attention", f"compare-attention-{i}")
                              for i in (1, 2)]  # fmt: skip
            with gr.Row(elem_classes="pair"):
                colors = [_result("PCA colours", f"compare-pca-{i}") for i in (1, 2)]

    @plain_errors()
    def compare(picture: str | None, first: str, second: str) -> tuple[Any, ...]:
        """Attention of two networks in one picture, then the PCA colours of both."""
        if picture is None:
            return (None,) * 4
        looks = [_look(models, name, picture) for name in (first, second)]
        return (*map(mean_attention, looks), *map(own_colors, looks))

    inputs, shown = [picture, *pickers], [*attentions, *colors]
    asked = picture.change(compare, inputs, shown, concurrency_id="look", api_name="compare")
    asked.success(None, js=to_result("compare-result"), api_visibility="private")
    gr.on(
        [one.input for one in pickers], compare, inputs, shown,
        concurrency_id="look", api_visibility="private",
    )  # fmt: skip


def mean_attention(look: Look) -> Any:
    """The mean attention of the heads of the last block, over the picture."""
    return heat_overlay(look.shown, look.attention[-1].mean(axis=0))


def own_colors(look: Look) -> Any:
    """The first principal components of the picture's own patches as colours."""
    height, width = look.shown.shape[:2]
    basis = patch_pca([look.tokens], components=COMPONENTS)
    return pca_colors(basis.scores(look.tokens), basis.variances, height=height, width=width)


def _look(models: Models, name: str, path: str) -> Look:
    model = models.model(name)
    if not model.has_attention:
        raise said(f"{name}: {missing('attention maps').replace('*', '')}")
    return model.look(checked_picture(path))


def _picker(label: str, name: str, names: tuple[str, ...], value: str) -> gr.Dropdown:
    return gr.Dropdown(list(names), value=value, label=label, filterable=False, min_width=140,
        elem_id=name,
    )  # fmt: skip


def _result(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, format="jpeg", interactive=False, buttons=["fullscreen"], min_width=140,
        elem_id=name,
    )  # fmt: skip
