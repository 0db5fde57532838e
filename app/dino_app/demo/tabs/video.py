"""The tab where people see how attention follows what moves."""

from functools import partial
from pathlib import Path

import gradio as gr

from dino_app.demo.availability import vit_only
from dino_app.demo.clips import MAX_SECONDS, Draw, attention_of, write_clip
from dino_app.demo.models import Models
from dino_app.demo.style import to_result
from dino_app.demo.tabs.saving import new_folder
from dino_app.demo.uploads import plain_errors, said

SIZE = 240  # pixels; a clip has many frames
SIZES = (96, 480)
FRAMES = (8, 48, 160)  # least, default, most
ABOUT = f"""
Upload a clip of at most {MAX_SECONDS} seconds. The network looks at each frame by itself; it knows
nothing about time.
"""


def video_tab(models: Models, picker: gr.Dropdown) -> None:
    """Build the tab: a clip on the left, its attention on the right."""
    with vit_only(models, picker, "attention maps"), gr.Row(elem_classes="tab"):
        with gr.Column(elem_classes="ask"):
            gr.Markdown(ABOUT, elem_classes="hint")
            clip = clip_input(height=280, elem_id="video-clip")
            start = gr.Button("Show attention", variant="primary", elem_id="video-start")
        with gr.Column(elem_classes="result", elem_id="video-result-part"):
            result, text = clip_result("What the network looks at", elem_id="video")
        with gr.Column(elem_classes="settings"):
            frames, size = clip_settings(models, picker, elem_id="video")

    @plain_errors()
    def attention_clip(
        clip: str | None, network: str, frames: float = FRAMES[1], resolution: float = SIZE,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:  # fmt: skip
        """A clip with the mean attention of the heads laid over it."""
        return drawn_clip(
            clip, new_folder(result) / "dino-attention.mp4",
            partial(attention_of, model=models.model(network), size=round(resolution)),
            frames=frames, progress=progress,
        )  # fmt: skip

    asked = start.click(
        attention_clip, [clip, picker, frames, size], [result, text], api_name="attention_video",
        show_progress_on=result,
    )  # fmt: skip
    asked.success(None, js=to_result("video-result-part"), api_visibility="private")


def drawn_clip(
    clip: str | None, target: Path, draw: Draw, *, frames: float, progress: gr.Progress
) -> tuple[str, str]:
    """Draw on a clip; the path of what was written, and a sentence about it.

    Raises:
        gr.Error: No clip is chosen.
        ImageError: It is damaged, or beyond a limit.
    """
    if clip is None:
        raise said("Choose a clip first.")
    written = write_clip(
        Path(clip), target, draw, max_frames=bounded_frames(frames),
        advance=lambda done, total: progress((done, total), unit="frames"),
    )  # fmt: skip
    return str(target), f"{written.frames} frames, {written.seconds:.1f} seconds."


def bounded_frames(max_frames: float) -> int:
    """Clamp the number of frames that a client of the API asks for."""
    return max(FRAMES[0], min(FRAMES[2], round(max_frames)))


def clip_input(*, height: int, elem_id: str) -> gr.Video:
    """A field to upload a clip in."""
    return gr.Video(
        label="Your clip", sources=["upload"], buttons=[], height=height, elem_id=elem_id
    )


def clip_result(label: str, *, elem_id: str) -> tuple[gr.Video, gr.Markdown]:
    """The clip that was drawn, to play and to keep, and a sentence about it."""
    result = gr.Video(
        label=label, interactive=False, autoplay=True, loop=True, buttons=["download"],
        elem_id=f"{elem_id}-result",
    )  # fmt: skip
    text = gr.Markdown("The result appears here.", elem_classes="hint", elem_id=f"{elem_id}-text")
    return result, text


def clip_settings(
    models: Models, picker: gr.Dropdown, *, elem_id: str
) -> tuple[gr.Slider, gr.Slider]:
    """The number of frames to look at, and their resolution, which suits the network picked."""

    def suited(name: str) -> int:
        return min(SIZE, models.model(name).default_size)

    frames = gr.Slider(
        FRAMES[0], FRAMES[2], value=FRAMES[1], step=8, label="Frames",
        info="Spread evenly over the clip.", elem_id=f"{elem_id}-frames",
    )  # fmt: skip
    size = gr.Slider(
        *SIZES, value=suited(models.names[0]), step=8, label="Resolution (pixels)",
        info="More is finer and slower.", elem_id=f"{elem_id}-size",
    )  # fmt: skip
    picker.change(suited, picker, size, api_visibility="private", show_progress="hidden")
    return frames, size
