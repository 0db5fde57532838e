"""Click a patch: what else in a picture, and in a second one, is like it to the network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from dino_app.demo.availability import vit_only
from dino_app.demo.clicks import EVERY_CLICK, clicked_patch, spread_matches
from dino_app.demo.detail import detail_choice, detailed_look
from dino_app.demo.examples import picture_examples
from dino_app.demo.models import Look, Models
from dino_app.demo.style import to_result
from dino_app.demo.tabs.attention_pictures import COLORMAPS
from dino_app.demo.uploads import checked_picture, picture_input, plain_errors
from dino_infer.attention.patches import patch_similarity
from dino_infer.drawing.overlays import COLORMAP, OPACITY, similarity_overlay

INTRO = (
    "Choose a photo, then click something in it, say an eye: the brighter a place, the more it is "
    "like that to the network. White frames are the best matches. With a second photo you see "
    "where the same thing is there."
)
FIRST_STEP = "Choose a photo to begin."
NEXT_STEP = "This asks for the middle of the picture. **Now click anything in it.**"
SHOWN = 640  # pixels, about: Gradio shows no picture larger than it is, so small ones are enlarged

Shown = UInt8[np.ndarray, "_height _width 3"]


class Scene(NamedTuple):
    """Pictures of one visitor, and the patch that was clicked."""

    uploads: tuple[str | None, str | None] = (None, None)
    looks: tuple[Look | None, Look | None] = (None, None)
    asked: int = 0
    """Index of the picture that was clicked."""
    query: tuple[int, int] | None = None
    """Row and column of the patch that is asked for."""
    was_clicked: bool = False
    """True if somebody chose it."""


class Marks(NamedTuple):
    """Options for drawing similarity."""

    matches: int = 5
    radius: int = 2
    """Patches around each match that hold no other one."""
    opacity: float = OPACITY
    colormap: str = COLORMAP


def patches_tab(models: Models, picker: gr.Dropdown) -> gr.Image:
    """Build the tab inside the one that is open; returns its first upload field."""
    with vit_only(models, picker, "patches to compare"):
        gr.Markdown(INTRO, elem_classes="hint")
        with gr.Row(elem_classes="tab"):
            with gr.Column(elem_classes="ask"):
                first = picture_input("Photo", height=240, elem_id="patches-photo")
                picture_examples(first)
                second = picture_input(
                    "Second photo, if you like", height=240, elem_id="patches-second"
                )
            with gr.Column(elem_classes="result", elem_id="patches-result"):
                step = gr.Markdown(FIRST_STEP, elem_id="patches-step")
                pictures = [_clickable(which) for which in (0, 1)]
            with gr.Column(elem_classes="settings"):
                detail, marks = _settings()
    scene = gr.State(Scene())
    shown = [scene, *pictures, step]
    inputs = [scene, first, second, picker, detail, *marks]

    @plain_errors()
    def looked(
        before: Scene, first: str | None, second: str | None, name: str, detail: str, *marks: Any
    ) -> tuple[Any, ...]:
        scene = scene_of((first, second), name=name, detail=detail, models=models)
        scene = same_query(before, scene)
        return scene, *_drawn(scene, Marks(*marks))

    @plain_errors()
    def redrawn(scene: Scene, *marks: Any) -> tuple[Any, ...]:
        return _drawn(scene, Marks(*marks))

    def clicked_in(which: int) -> Callable[..., tuple[Any, ...]]:
        @plain_errors()
        def clicked(event: gr.SelectData, scene: Scene, *marks: Any) -> tuple[Any, ...]:
            scene = asked(scene, which=which, place=event.index)
            return scene, *_drawn(scene, Marks(*marks))

        return clicked

    # One after the other, so that no late answer shows what was before a click.
    private: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "patches"}
    quiet = private | {"show_progress": "hidden"}
    for source in (first, second, picker, detail):
        change = source.change(looked, inputs, shown, **private)
        if source in (first, second):
            change.success(None, js=to_result("patches-result"), **quiet)
    for which, picture in enumerate(pictures):
        picture.select(clicked_in(which), [scene, *marks], shown, **quiet, **EVERY_CLICK)
    gr.on(
        [mark.input for mark in marks],
        redrawn,
        [scene, *marks],
        [*pictures, step],
        trigger_mode="always_last",
        **quiet,
    )
    return first


def scene_of(
    uploads: tuple[str | None, str | None], *, name: str, detail: str, models: Models
) -> Scene:
    """The uploads as a network sees them, before any click.

    The middle of the first picture is asked for, so that there is something to see at once.

    Raises:
        gr.Error: An upload cannot be read.
        ImageError: An upload is too elongated.
        ValueError: There is no such network or detail.
    """
    model = models.model(name)
    if not model.has_attention:
        return Scene()
    first, second = (
        None if upload is None else detailed_look(model, checked_picture(upload), detail)
        for upload in uploads
    )
    middle = None if first is None else (first.view.rows // 2, first.view.columns // 2)
    return Scene(uploads, (first, second), query=middle)


def asked(scene: Scene, *, which: int, place: object) -> Scene:
    """The scene after a click.

    Args:
        scene: The scene before it.
        which: 0 for a click in the first picture, 1 for the second.
        place: x and y of the click in the picture as it was shown.

    Raises:
        ValueError: There is no such picture, or the place is not in it.
    """
    look = scene.looks[which]
    if look is None:
        raise ValueError("this picture is no longer there; choose it again")
    height, width = look.picture.shape[:2]
    factor = enlargement(height, width)
    size, grid = (factor * height, factor * width), (look.view.rows, look.view.columns)
    query = clicked_patch(place, size=size, grid=grid)
    return scene._replace(asked=which, query=query, was_clicked=True)


def same_query(before: Scene, after: Scene) -> Scene:
    """The scene with the click that came before it, where the clicked photo is still there.

    So a click lasts while people try another network, more detail or another second photo.
    """
    old, new = before.looks[before.asked], after.looks[before.asked]
    same_photo = before.uploads[before.asked] == after.uploads[before.asked]
    if (
        not (same_photo and before.was_clicked)
        or before.query is None
        or old is None
        or new is None
    ):
        return after
    (row, column), ours, theirs = before.query, new.view, old.view
    query = (
        int((row + 0.5) * ours.rows / theirs.rows),
        int((column + 0.5) * ours.columns / theirs.columns),
    )
    return after._replace(asked=before.asked, query=query, was_clicked=True)


def similarities(scene: Scene) -> list[Float[np.ndarray, "_rows _columns"] | None]:
    """Similarity of each patch of both pictures to the one that was clicked."""
    asking = scene.looks[scene.asked]
    if asking is None or scene.query is None:
        return [None for _ in scene.looks]
    query = asking.tokens[scene.query]
    return [None if look is None else patch_similarity(query, look.tokens) for look in scene.looks]


def enlargement(height: int, width: int) -> int:
    """Factor by which a picture is enlarged for the page; 1 for all but small ones."""
    return max(1, round(SHOWN / max(height, width)))


def enlarged(picture: UInt8[np.ndarray, "height width 3"]) -> Shown:
    """A picture as it goes to the page."""
    height, width = picture.shape[:2]
    factor = enlargement(height, width)
    if factor == 1:
        return picture
    size = (factor * width, factor * height)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))


def _drawn(scene: Scene, marks: Marks) -> tuple[Any, Any, str]:
    """Both pictures and what is said about them."""
    maps = similarities(scene)
    low = min((float(values.min()) for values in maps if values is not None), default=0.0)
    pictures: list[gr.Image] = []
    facts: list[str] = []
    for which, (look, values) in enumerate(zip(scene.looks, maps, strict=True)):
        picture = None if look is None else enlarged(look.picture)
        if picture is not None and values is not None:
            query = scene.query if which == scene.asked else None
            matches = spread_matches(values, count=marks.matches, radius=marks.radius, query=query)
            picture = similarity_overlay(
                picture,
                values,
                query=query,
                matches=matches,
                opacity=marks.opacity,
                colormap=marks.colormap,
                scale=(low, 1.0),
            )
            facts.append(_fact(which, [float(values[match]) for match in matches]))
        pictures.append(gr.Image(picture, visible=which == 0 or picture is not None))
    if scene.looks == (None, None):
        return pictures[0], pictures[1], FIRST_STEP
    steps = facts if scene.was_clicked else [NEXT_STEP, *facts]
    return pictures[0], pictures[1], "  \n".join(steps)


def _fact(which: int, best: list[float]) -> str:
    where = ("in the first picture", "in the second picture")[which]
    if not best:
        return f"No matches {where}."
    return f"Best matches {where}: " + " · ".join(f"{value:.2f}" for value in best)


def _clickable(which: int) -> gr.Image:
    """A picture whose clicks count; only pictures made here are shown in it.

    The pixels of a click are then those of this picture, whatever the upload was: turned by its
    EXIF entry, tiny, or huge. In "fullscreen" Gradio would report wrong places.
    """
    return gr.Image(
        label=("Click in here", "Second photo: click in here too")[which],
        interactive=False,
        buttons=[],
        visible=which == 0,
        elem_id=("patches-picture", "patches-second-picture")[which],
        elem_classes="clickable",
    )


def _settings() -> tuple[gr.Radio, list[Any]]:
    """Detail, and the fields of ``Marks`` in their order."""
    usual = Marks()
    with gr.Accordion("Settings", open=False, elem_id="patches-settings"):
        detail = detail_choice()
        matches = gr.Slider(
            0, 20, usual.matches, step=1, label="Matches to mark", elem_id="patches-matches"
        )
        radius = gr.Slider(
            0, 10, usual.radius, step=1, label="Distance between them", info="In patches."
        )
        opacity = gr.Slider(
            0, 1, usual.opacity, step=0.05, label="Opacity", elem_id="patches-opacity"
        )
        colormap = gr.Dropdown(list(COLORMAPS), value=usual.colormap, label="Colours")
    return detail, [matches, radius, opacity, colormap]
