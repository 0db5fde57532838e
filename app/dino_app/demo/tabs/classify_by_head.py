"""Classify with a head: probabilities of the classes that a linear classifier has learned."""

from typing import Any

import gradio as gr

from dino_app.demo.examples import picture_examples
from dino_app.demo.models import Models
from dino_app.demo.style import to_result
from dino_app.demo.tiles import plain
from dino_app.demo.uploads import checked_picture, picture_input, plain_errors
from dino_app.demo.vectors import OtherNetwork, Vectors, switch_button, switch_to
from dino_infer.embedding.embedder import Embedder
from dino_infer.heads import LinearHead

INTRO = (
    "A linear classifier tells what your photo shows. It was trained on labelled photos; the "
    "network was not."
)
FIRST_STEP = "Choose a photo to classify."
TOP_CLASSES = 5


def head_tab(
    models: Models, picker: gr.Dropdown, head: LinearHead, *, embedder: Embedder | None = None
) -> None:
    """Build the tab inside the one that is open.

    Args:
        models: The networks.
        picker: Choice of one of them.
        head: The classifier.
        embedder: Maker of the vectors, instead of the network that is chosen.
    """
    vectors = Vectors(models, embedder)
    gr.Markdown(INTRO, elem_classes="hint")
    with gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="ask"):
            asking = picture_input("Photo to classify", height=240, elem_id="classify-photo")
            picture_examples(asking)
        with gr.Column(elem_classes="result", elem_id="classify-result"):
            gr.Markdown(f"{len(head.classes):,} classes", elem_id="classify-about")
            told = gr.Markdown(FIRST_STEP, elem_id="classify-told")
            switch = switch_button(picker, elem_id="classify-switch")
            label = gr.Label(label="Classes", num_top_classes=TOP_CLASSES, elem_id="classify-label")

    @plain_errors()
    def classify(picture: str | None, network: str) -> tuple[Any, ...]:
        """Probabilities of the classes of a photo."""
        *answer, fitting = _answer(picture, network, head=head, vectors=vectors)
        return *answer, switch_to(fitting)

    shown = [label, told, switch]
    busy: dict[str, Any] = {"show_progress_on": label, "concurrency_id": "classify"}
    asked = asking.change(classify, [asking, picker], shown, api_name="classify", **busy)
    asked.success(None, js=to_result("classify-result"), api_visibility="private")
    if embedder is None:
        picker.change(classify, [asking, picker], shown, api_visibility="private", **busy)


def _answer(
    picture: str | None, network: str, *, head: LinearHead, vectors: Vectors
) -> tuple[dict[str, float] | None, str, str | None]:
    """The most probable classes of a photo, a sentence, and a network that can answer instead.

    Raises:
        gr.Error: The photo cannot be read.
    """
    if picture is None:
        return None, FIRST_STEP, None
    image = checked_picture(picture)
    try:
        vector = vectors.vector(image, name=network, made=head.made_by, what="head")
    except OtherNetwork as error:
        return None, str(error.message), error.switch_to
    return *_told(head, vector), None


def _told(head: LinearHead, vector: Any) -> tuple[dict[str, float], str]:
    """The most probable classes of a vector, and a sentence about the first."""
    shares = head.predict_proba(vector[None])[0]
    best = (-shares).argsort(kind="stable")[:TOP_CLASSES]
    classes = {head.classes[place]: float(shares[place]) for place in best}
    winner = next(iter(classes))
    return classes, f"**{plain(winner)}**, with a probability of {100 * classes[winner]:.0f} %."
