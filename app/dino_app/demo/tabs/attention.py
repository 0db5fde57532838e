"""The tab where people see what each attention head looks at."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from dino_app.demo.availability import vit_only
from dino_app.demo.clicks import EVERY_CLICK
from dino_app.demo.examples import picture_examples
from dino_app.demo.models import SIZE, Look, Models
from dino_app.demo.style import to_result
from dino_app.demo.tabs.attention_controls import AttentionView, attention_view, drawing_of, fitted
from dino_app.demo.tabs.attention_pictures import (
    COLORMAPS,
    COLORS,
    MEAN,
    STYLES,
    Drawing,
    boxes,
    head_gallery,
    layer_heads,
    mask_text,
    overlay,
)
from dino_app.demo.tabs.saving import connect_save
from dino_app.demo.uploads import checked_picture, picture_input, plain_errors
from dino_infer.attention.maps import grid_masks

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def attention_tab(models: Models, picker: gr.Dropdown) -> gr.Image:
    """Build the tab and return its upload field."""
    with vit_only(models, picker, "attention maps"), gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="ask"):
            picture = picture_input("Your picture", height=280, elem_id="attention-picture")
            picture_examples(picture)
        view = attention_view(models.model(models.names[0]))
    _connect(models, picker, picture, view)
    return picture


class Answers:
    """Event handlers of the tab."""

    def __init__(self, models: Models) -> None:
        self._models = models

    @plain_errors()
    def attention(
        self, picture: str | None, network: str, resolution: float = SIZE, show: str = STYLES[0],
        head: str = MEAN, mass: float = 60, opacity: float = 60, boxes: bool = False,
        colours: str = COLORMAPS[0], block: float = 12,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Overlay of the attention in a picture, a gallery of heads, and a sentence."""
        if picture is None:
            return self._empty()
        look = self._models.model(network).look(checked_picture(picture), size=round(resolution))
        drawing = drawing_of(show, head, mass, opacity, boxes, colours, block)
        drawn = pictures(look, drawing)
        return (look, gr.Column(visible=True), gr.Markdown(visible=False), *drawn)

    @plain_errors()
    def refitted(self, picture: str | None, network: str, *settings: Any) -> tuple[Any, ...]:
        """The same after another network was chosen; nothing for one without attention."""
        if not self._models.model(network).has_attention:
            return self._empty()
        return self.attention(picture, network, *settings)

    @plain_errors()
    def redrawn(self, look: Look | None, *settings: Any) -> tuple[Any, ...]:
        """The pictures after a setting was changed."""
        return (None, None, "") if look is None else pictures(look, drawing_of(*settings))

    def fitted(self, network: str) -> tuple[Any, ...]:
        """The settings that depend on the network."""
        return fitted(self._models.model(network))

    def _empty(self) -> tuple[Any, ...]:
        return (None, gr.Column(visible=False), gr.Markdown(visible=True), None, None, "")


def _connect(models: Models, picker: gr.Dropdown, picture: gr.Image, view: AttentionView) -> None:
    look = gr.State(None)
    answers = Answers(models)
    looked: dict[str, Any] = {
        "inputs": [picture, picker, view.size, *view.controls],
        "outputs": [look, view.page, view.empty, *view.drawn],
        "concurrency_id": "look",
    }
    redraw: dict[str, Any] = {
        "inputs": [look, *view.controls], "outputs": view.drawn, "trigger_mode": "always_last",
        **QUIET,
    }  # fmt: skip
    fit = picker.change(answers.fitted, picker, [view.size, view.layer, view.head], **QUIET)
    changed = [view.head, view.style]
    click = view.gallery.select(_clicked, view.style, changed, **QUIET, **EVERY_CLICK)
    gr.on([control.input for control in view.controls], answers.redrawn, **redraw)
    asked = picture.change(answers.attention, **looked, api_name="attention")
    asked.success(None, js=to_result("attention-result"), **QUIET)
    view.size.release(answers.attention, **looked, api_visibility="private")
    fit.then(answers.refitted, **looked, api_visibility="private")
    click.then(answers.redrawn, **redraw)
    for (button, made), write in ((view.png, write_png), (view.npz, write_npz)):
        connect_save(button, made, partial(_file, write), [look, *view.controls])


def pictures(look: Look, drawing: Drawing) -> tuple[Any, ...]:
    """Outputs for the page: the original and the overlay, the heads, and a sentence."""
    both = (look.shown, overlay(look, drawing))
    return both, head_gallery(look, drawing), mask_text(look, drawing)


def _file(
    write: Callable[[Look, Drawing, Path], str], folder: Path, look: Look | None, *settings: Any
) -> str | None:
    return None if look is None else write(look, drawing_of(*settings), folder)


def write_png(look: Look, drawing: Drawing, folder: Path) -> str:
    """Write the overlay; the path of the file."""
    path = folder / "dino-attention.png"
    Image.fromarray(overlay(look, drawing)).save(path, compress_level=1)
    return str(path)


def write_npz(look: Look, drawing: Drawing, folder: Path) -> str:
    """Write the numbers behind the overlay; the path of the file.

    The arrays are ``attention`` and ``masks`` of every head of the block, heads x rows x columns,
    and ``boxes`` of the chosen map: x0, y0, x1, y1 in pixels of the upload, and the share of the
    attention.
    """
    path = folder / "dino-attention.npz"
    heads = layer_heads(look, drawing)
    found = np.array(boxes(look, drawing), dtype=np.float64).reshape(-1, 5)
    arrays: dict[str, Any] = {
        "attention": heads,
        "masks": grid_masks(heads, drawing.mass),
        "boxes": found,
    }
    np.savez(path, **arrays)
    return str(path)


def _clicked(style: str, event: gr.SelectData) -> tuple[Any, Any]:
    """The head, or the style, that a click in the gallery asks for."""
    name = event.value["caption"]
    if name == COLORS:
        return gr.Dropdown(), COLORS
    return name, "Mask" if style == "Mask" else "Heat map"
