"""Hide the parts of the page that a network does not support, and show a line that says why."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from dino_app.demo.models import Models
from dino_app.demo.uploads import plain_errors


@contextmanager
def vit_only(models: Models, picker: gr.Dropdown, what: str) -> Iterator[None]:
    """Build a part of the page that shows only while the chosen network is a Vision Transformer.

    Args:
        models: The networks.
        picker: Choice of the network.
        what: Name of what other networks lack, as in "attention maps".
    """
    first = models.model(models.names[0])
    why = gr.Markdown(missing(what), visible=not first.has_attention, elem_classes="notice")
    with gr.Column(visible=first.has_attention, elem_classes="bare") as part:
        yield

    @plain_errors()
    def shown(name: str) -> tuple[object, object]:
        able = models.model(name).has_attention
        return gr.Markdown(visible=not able), gr.Column(visible=able)

    picker.change(
        shown, picker, [why, part], show_progress="hidden", queue=False, api_visibility="private"
    )


def missing(what: str) -> str:
    """Notice that a network other than a Vision Transformer lacks a feature."""
    return (
        f"**This network has no {what}.** It is a convolutional network: it turns a picture into "
        "one vector and has no [CLS] token that could look at patches. Choose a Vision Transformer "
        "(ViT) above, or use *Search* and *Classify*, which work with any network."
    )
