"""The tab where people see how attention follows what moves."""

import secrets
from pathlib import Path

import gradio as gr

from dino_app.demo.availability import vit_only
from dino_app.demo.clips import MAX_SECONDS, write_clip
from dino_app.demo.models import Model, Models
from dino_app.demo.uploads import plain_errors, said

SIZE = 240  # pixels; a clip has many frames
SIZES = (96, 480)
FRAMES = (8, 48, 160)  # least, default, most
ABOUT = f"""
Upload a clip of at most {MAX_SECONDS} seconds. The network looks at each frame by itself; it knows
nothing about time, and still its attention stays with what moves.
"""


def video_tab(models: Models, picker: gr.Dropdown) -> None:
    """Build the tab: a clip on the left, its attention on the right."""
    first = models.model(models.names[0])
    with vit_only(models, picker, "attention maps"), gr.Row():
        with gr.Column(scale=2, min_width=300):
            gr.Markdown(ABOUT, elem_classes="hint")
            clip = gr.Video(
                label="Your clip", sources=["upload"], buttons=[], height=280, elem_id="video-clip"
            )
            with gr.Row():
                frames = gr.Slider(
                    FRAMES[0], FRAMES[2], value=FRAMES[1], step=8, label="Frames",
                    info="Spread evenly over the clip.", elem_id="video-frames",
                )  # fmt: skip
                size = gr.Slider(
                    *SIZES, value=_size_of(first), step=8, label="Resolution (pixels)",
                    info="More is finer and slower.", elem_id="video-size",
                )  # fmt: skip
            start = gr.Button("Show attention", variant="primary", elem_id="video-start")
        with gr.Column(scale=3, min_width=320):
            result = gr.Video(
                label="What the network looks at", interactive=False, autoplay=True, loop=True,
                buttons=["download"], elem_id="video-result",
            )  # fmt: skip
            text = gr.Markdown(
                "The result appears here.", elem_classes="hint", elem_id="video-text"
            )

    @plain_errors()
    def attention_clip(
        path: str | None, network: str, resolution: float, max_frames: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:  # fmt: skip
        """A clip with the mean attention of the heads laid over it."""
        if path is None:
            raise said("Choose a clip first.")
        target = Path(result.GRADIO_CACHE) / secrets.token_hex(16) / "dino-attention.mp4"
        target.parent.mkdir(parents=True)
        written = write_clip(
            Path(path), target, models.model(network),
            size=round(resolution), max_frames=_bounded(max_frames),
            advance=lambda done, total: progress((done, total), unit="frames"),
        )  # fmt: skip
        return str(target), f"{written.frames} frames, {written.seconds:.1f} seconds."

    start.click(
        attention_clip, [clip, picker, size, frames], [result, text], api_name="attention_video",
        show_progress_on=result,
    )  # fmt: skip
    picker.change(
        lambda name: _size_of(models.model(name)), picker, size,
        api_visibility="private", show_progress="hidden",
    )  # fmt: skip


def _size_of(model: Model) -> int:
    return min(SIZE, model.default_size)


def _bounded(max_frames: float) -> int:
    """Clamp the number of frames that a client of the API asks for."""
    return max(FRAMES[0], min(FRAMES[2], round(max_frames)))
