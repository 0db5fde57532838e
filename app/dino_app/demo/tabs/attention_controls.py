"""The attention tab beside its upload: what is shown, and what decides how."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from dino_app.demo.models import Model
from dino_app.demo.tabs.attention_pictures import COLORMAPS, MEAN, STYLES, Drawing, head_names
from dino_app.demo.tabs.saving import save_button
from dino_app.demo.tiles import tile_gallery

SIZES = (128, 800)  # pixels of the shorter side
EMPTY = """
### Nothing chosen yet
Upload a picture, paste one, or click an example. You will see which parts of it the network looks
at, and what each of its attention heads has specialised in.
"""


@dataclass(frozen=True, kw_only=True)
class AttentionView:
    """The parts of the page that show attention, and those that people set."""

    empty: gr.Markdown
    page: gr.Column
    slider: gr.ImageSlider
    gallery: gr.Gallery
    text: gr.Markdown
    style: gr.Radio
    head: gr.Dropdown
    mass: gr.Slider
    opacity: gr.Slider
    boxes: gr.Checkbox
    colormap: gr.Dropdown
    layer: gr.Slider
    size: gr.Slider
    png: tuple[gr.Button, gr.File]
    """Button to save the picture, and its hidden file."""
    npz: tuple[gr.Button, gr.File]
    """Likewise for the numbers."""

    @property
    def controls(self) -> list[Any]:
        """Controls that redraw without a forward pass, in the order that ``drawing_of`` takes."""
        return [
            self.style, self.head, self.mass, self.opacity, self.boxes, self.colormap, self.layer,
        ]  # fmt: skip

    @property
    def drawn(self) -> list[Any]:
        """Components that a redraw changes."""
        return [self.slider, self.gallery, self.text]


def drawing_of(
    style: Any, head: str, mass: float, opacity: float, boxes: bool, colormap: Any, layer: float
) -> Drawing:
    """The drawing that the controls ask for; people count blocks from 1 and shares in percent."""
    return Drawing(
        style=style,
        head=head,
        layer=round(layer) - 1,
        mass=mass / 100,
        opacity=opacity / 100,
        colormap=colormap,
        boxes=boxes,
    )


def attention_view(model: Model) -> AttentionView:
    """Build it, set for one network."""
    with gr.Column(elem_classes="result", elem_id="attention-result"):
        empty = gr.Markdown(EMPTY, elem_classes="empty")
        page, parts = _shown_parts()
    with gr.Column(elem_classes="settings"):
        style, mass, opacity = _main_controls()
        head, colormap, layer, size, boxes = _more_controls(model)
    return AttentionView(
        empty=empty, page=page, **parts, style=style, head=head, mass=mass, opacity=opacity,
        boxes=boxes, colormap=colormap, layer=layer, size=size,
    )  # fmt: skip


def _shown_parts() -> tuple[gr.Column, dict[str, Any]]:
    with gr.Column(visible=False, elem_classes="bare") as page:
        slider = gr.ImageSlider(
            label="Original | what the network looks at",
            format="jpeg",
            interactive=False,
            max_height=520,
            buttons=["fullscreen"],
            elem_id="attention-slider",
        )
        text = gr.Markdown(elem_classes="hint", elem_id="attention-text")
        gr.Markdown("**Every head by itself.** Click one to see it above.", elem_classes="hint")
        gallery = tile_gallery(
            "Heads",
            elem_id="attention-gallery",
            show_label=False,
            format="jpeg",
            columns=4,
            height="100%",
            object_fit="cover",
            allow_preview=False,
        )
        with gr.Row():
            png = save_button("Save picture (PNG)", elem_id="attention-png")
            npz = save_button("Save numbers (NPZ)", elem_id="attention-npz")
    return page, {
        "slider": slider, "gallery": gallery, "text": text, "png": png, "npz": npz,
    }  # fmt: skip


def fitted(model: Model) -> tuple[gr.Slider, gr.Slider, gr.Dropdown]:
    """The resolution, the block and the head set as suits another network."""
    return (
        gr.Slider(**_resolutions(model)), gr.Slider(**_blocks(model)), gr.Dropdown(**_heads(model)),
    )  # fmt: skip


def _main_controls() -> tuple[gr.Radio, gr.Slider, gr.Slider]:
    style = gr.Radio(list(STYLES), value=STYLES[0], label="Show", elem_id="attention-style")
    mass = gr.Slider(
        10, 95, value=60, step=1, label="Attention inside the outline (%)",
        info="How much of its attention the marked part must hold.",
        elem_id="attention-mass",
    )  # fmt: skip
    opacity = gr.Slider(
        0, 100, value=60, step=5, label="Opacity (%)",
        info="How strongly the colours cover the picture.", elem_id="attention-opacity",
    )  # fmt: skip
    return style, mass, opacity


def _more_controls(
    model: Model,
) -> tuple[gr.Dropdown, gr.Dropdown, gr.Slider, gr.Slider, gr.Checkbox]:
    with gr.Accordion("More settings", open=False, elem_id="attention-more"):
        head = gr.Dropdown(
            label="Head", filterable=False, elem_id="attention-head", **_heads(model)
        )
        colormap = gr.Dropdown(
            list(COLORMAPS), value=COLORMAPS[0], label="Colours", filterable=False,
            elem_id="attention-colormap",
        )  # fmt: skip
        layer = gr.Slider(
            step=1, label="Block", elem_id="attention-layer", **_blocks(model),
            info="The last block decides; early ones see edges and colours.",
        )  # fmt: skip
        size = gr.Slider(
            *SIZES, step=8, label="Resolution (pixels)", elem_id="attention-size",
            info="Shorter side, as the network sees it. More is finer and slower.",
            **_resolutions(model),
        )  # fmt: skip
        boxes = gr.Checkbox(label="Boxes around the marked parts", elem_id="attention-boxes")
    return head, colormap, layer, size, boxes


def _resolutions(model: Model) -> dict[str, Any]:
    return {"value": model.default_size}


def _blocks(model: Model) -> dict[str, Any]:
    depth = model.backbone.depth  # 0 for networks whose slider is hidden; Gradio wants a range
    return {"minimum": 1, "maximum": max(depth, 2), "value": max(depth, 1)}


def _heads(model: Model) -> dict[str, Any]:
    return {"choices": head_names(model.heads), "value": MEAN}
