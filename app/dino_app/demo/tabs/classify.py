"""Classify: labelled photos near a photo vote on what it shows, and are shown."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dino_app.demo.examples import picture_examples
from dino_app.demo.models import Models
from dino_app.demo.style import to_result
from dino_app.demo.tiles import caption, plain, tile_gallery
from dino_app.demo.uploads import checked_picture, picture_input, plain_errors
from dino_app.demo.vectors import OtherNetwork, Vectors, switch_button, switch_to
from dino_app.demo.voters import LABEL, Examples, FileExamples, IndexExamples, Voter
from dino_app.store.filters import Exists
from dino_app.store.interface import Store
from dino_infer.embedding.embedder import Embedder
from dino_infer.features.files import Features
from dino_infer.knn.votes import TEMPERATURE, vote

INTRO = (
    "The labelled photos that are most like yours vote on what it shows; nothing was trained to "
    "know these classes."
)
NO_EXAMPLES = (
    "**Classifying needs labelled photos.** Start the demo with `--features FILE`, made by "
    "`dino-embed` from a folder that has a folder for each class, or with `--index FOLDER`, made "
    "by `dino-index build` from one."
)
FIRST_STEP = "Choose a photo to classify."
K, MOST_K = 20, 200
TOP_CLASSES = 5
TILES = 12  # of the voters, the rest is in the table
HEADERS = ("Photo", "Class", "Similarity", "Vote")


def classify_tab(
    models: Models,
    picker: gr.Dropdown,
    *,
    features: Features | None = None,
    store: Store | None = None,
    embedder: Embedder | None = None,
) -> None:
    """Build the tab inside the one that is open.

    Args:
        models: The networks.
        picker: Choice of one of them.
        features: Labelled examples.
        store: Index that gives the examples without ``features``, if items of it have labels.
        embedder: Maker of the vectors, instead of the network that is chosen.

    Raises:
        DataError: The features cannot be classified with.
    """
    examples = _examples(features, store)
    if examples is None:
        gr.Markdown(NO_EXAMPLES, elem_classes="notice")
        return
    gr.Markdown(INTRO, elem_classes="hint")
    with gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="ask"):
            asking = picture_input("Photo to classify", height=240, elem_id="classify-photo")
            picture_examples(asking)
        with gr.Column(elem_classes="result", elem_id="classify-result"):
            gr.Markdown(examples.summary, elem_id="classify-about")
            told = gr.Markdown(FIRST_STEP, elem_id="classify-told")
            switch = switch_button(picker, elem_id="classify-switch")
            label = gr.Label(label="Classes", num_top_classes=TOP_CLASSES, elem_id="classify-label")
            tiles = tile_gallery("Who voted", elem_id="classify-tiles", visible=examples.has_tiles)
            table = gr.Dataframe(
                headers=list(HEADERS),
                datatype="str",
                column_widths=["40%", "20%", "20%", "20%"],
                label="Votes",
                interactive=False,
                max_height=320,
                wrap=True,
                elem_id="classify-votes",
            )
        with gr.Column(elem_classes="settings"):
            k = gr.Slider(1, MOST_K, K, step=1, label="Voters (k)", elem_id="classify-k")
            temperature = gr.Slider(
                0.01,
                1,
                TEMPERATURE,
                step=0.01,
                label="Temperature",
                info="Lower listens more to the most similar.",
                elem_id="classify-temperature",
            )
    voters = gr.State([])
    vectors = Vectors(models, embedder)
    settings, shown = [k, temperature], [label, tiles, table, told]

    @plain_errors()
    def classify(
        picture: str | None, network: str, k: float = K, temperature: float = TEMPERATURE
    ) -> tuple[Any, ...]:
        """Classes of a photo with their shares of the vote, and who voted."""
        *answer, fitting = _answer(
            picture, network, k, temperature, examples=examples, vectors=vectors
        )
        return *answer, switch_to(fitting)

    @plain_errors()
    def voted(found: list[Voter], k: float, temperature: float) -> tuple[Any, ...]:
        return _shown(found, examples, k, temperature)

    inputs = [asking, picker, *settings]
    busy: dict[str, Any] = {"show_progress_on": label, "concurrency_id": "classify"}
    asked = asking.change(classify, inputs, [voters, *shown, switch], api_name="classify", **busy)
    asked.success(None, js=to_result("classify-result"), api_visibility="private")
    if embedder is None:
        picker.change(classify, inputs, [voters, *shown, switch], api_visibility="private", **busy)
    gr.on(
        [setting.input for setting in settings],
        voted,
        [voters, *settings],
        shown,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
        concurrency_id="classify",
    )


def _examples(features: Features | None, store: Store | None) -> Examples | None:
    """Source of the labelled examples; None where there is none."""
    if features is not None:
        return FileExamples(features)
    if store is not None and store.count(Exists(LABEL, True)):
        return IndexExamples(store)
    return None


def _answer(
    picture: str | None,
    network: str,
    k: float,
    temperature: float,
    *,
    examples: Examples,
    vectors: Vectors,
) -> tuple[Any, ...]:
    """Who may vote on a photo, what ``_shown`` gives, and a network that can answer instead.

    Raises:
        gr.Error: The photo cannot be read.
    """
    found: list[Voter] = []
    if picture is not None:
        image, made = checked_picture(picture), examples.model
        try:
            vector = vectors.vector(image, name=network, made=made, what=examples.what)
        except OtherNetwork as error:
            return [], None, [], [], str(error.message), error.switch_to
        found = examples.nearest(vector, k=MOST_K)
    return found, *_shown(found, examples, k, temperature), None


def _shown(
    found: Sequence[Voter], examples: Examples, k: float, temperature: float
) -> tuple[Any, ...]:
    """Classes, tiles, table and a sentence: what the first ``k`` of those found vote."""
    if not found:
        return None, [], [], FIRST_STEP
    voters = found[: int(k)]
    classes, shares = vote(
        [voter.similarity for voter in voters],
        [voter.label for voter in voters],
        temperature=temperature,
    )
    tiles = []
    if examples.has_tiles:
        tiles = [
            (
                examples.tile(voter.name),
                caption(voter.label, f"{100 * share:.1f} %", f"{voter.similarity:.3f}"),
            )
            for voter, share in zip(voters[:TILES], shares, strict=False)
        ]
    rows = [
        [voter.name, voter.label, f"{voter.similarity:.3f}", f"{100 * share:.1f} %"]
        for voter, share in zip(voters, shares, strict=True)
    ]
    winner, share = classes[0]
    told = f"**{plain(winner)}** has {100 * share:.0f} % of the votes of {len(voters)} photos."
    return dict(classes), tiles, rows, told
