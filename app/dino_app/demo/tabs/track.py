"""The tab where a thing that is painted on the first frame is followed through a clip."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import Bool, Float32

from dino_app.demo.availability import vit_only
from dino_app.demo.clips import MAX_SECONDS, Frame, first_frame, tracked
from dino_app.demo.models import Models
from dino_app.demo.style import to_result
from dino_app.demo.tabs.brush import brush_field, marks_of, to_paint_on
from dino_app.demo.tabs.mask_pictures import masked_picture, smooth_mask
from dino_app.demo.tabs.saving import new_folder
from dino_app.demo.tabs.video import (
    FRAMES,
    SIZE,
    clip_input,
    clip_result,
    clip_settings,
    drawn_clip,
)
from dino_app.demo.uploads import plain_errors, said
from dino_infer.objects.painting import OBJECT, UNMARKED, fit_patch_model

ABOUT = f"""
Upload a clip of at most {MAX_SECONDS} seconds and paint a thing in its first frame **orange**: all
of it, or a part of it and a part of what it is not in **blue**. Each patch of the next frames takes
the mask of the patches before it that are most like it.
"""


def track_tab(models: Models, picker: gr.Dropdown) -> None:
    """Build the tab inside the one that is open."""
    with vit_only(models, picker, "patches to follow"):
        gr.Markdown(ABOUT, elem_classes="hint")
        with gr.Row(elem_classes="tab"):
            with gr.Column(elem_classes="ask"):
                clip = clip_input(height=200, elem_id="track-clip")
            with gr.Column(elem_classes="result", elem_id="track-part"):
                field = brush_field("Paint here", elem_id="track-field")
                start = gr.Button("Follow it", variant="primary", elem_id="track-start")
                result, text = clip_result("What was followed", elem_id="track")
            with gr.Column(elem_classes="settings"):
                frames, size = clip_settings(models, picker, elem_id="track")

    @plain_errors()
    def opened(clip: str | None) -> Any:
        return None if clip is None else to_paint_on(first_frame(Path(clip)))

    @plain_errors()
    def track(
        clip: str | None, strokes: bytes | None, network: str, frames: float = FRAMES[1],
        resolution: float = SIZE, progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:  # fmt: skip
        """A clip with the thing that was painted on its first frame followed."""
        draw = partial(
            tracked, model=models.model(network), size=round(resolution),
            inside=partial(painted_inside, strokes=strokes), draw=_masked,
        )  # fmt: skip
        return drawn_clip(
            clip, new_folder(result) / "dino-track.mp4", draw, frames=frames, progress=progress
        )

    private: dict[str, Any] = {"api_visibility": "private"}
    shown = clip.change(opened, clip, field, **private)
    shown.success(None, js=to_result("track-part"), **private)
    asked = start.click(
        track, [clip, field, picker, frames, size], [result, text], show_progress_on=result,
        **private,
    )  # fmt: skip
    asked.success(None, js=to_result("track-result"), **private)


def painted_inside(
    tokens: Float32[np.ndarray, "rows columns dim"], *, strokes: bytes | None
) -> Bool[np.ndarray, "rows columns"]:
    """The patches of the first frame that were painted, or are like those and not the others.

    Raises:
        gr.Error: Nothing was painted as the thing.
    """
    rows, columns = tokens.shape[:2]
    marks = marks_of(strokes, (rows, columns))
    inside: np.ndarray = marks == OBJECT
    if not inside.any():
        raise said("Paint the thing to follow on the first frame, in orange.")
    if (marks == UNMARKED).any():
        inside = fit_patch_model([tokens], [marks]).scores(tokens) > 0
    return inside


def _masked(picture: Frame, shares: Float32[np.ndarray, "rows columns"]) -> Frame:
    return masked_picture(picture, [smooth_mask(shares, *picture.shape[:2])])
