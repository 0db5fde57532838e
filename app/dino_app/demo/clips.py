"""Attention over a short video, frame by frame, within limits."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from dino_app.demo.models import Model
from dino_infer.attention.maps import attention_maps
from dino_infer.attention.views import checked_view
from dino_infer.drawing.overlays import heat_overlay
from dino_infer.drawing.videos import Scale, VideoFile, video_file
from dino_infer.errors import ImageError
from dino_infer.images.preprocess import Preprocess

MAX_SECONDS = 60
MAX_FRAME_PIXELS = 9_000_000  # of one frame: 4K


class Clip(NamedTuple):
    """Frames and seconds of a video that was written."""

    frames: int
    seconds: float


def write_clip(
    source: Path,
    target: Path,
    model: Model,
    *,
    size: int,
    max_frames: int,
    advance: Callable[[int, int], None],
) -> Clip:
    """Write a video with the mean attention of the heads laid over it, as long as the original.

    Frames are left out evenly where there are more than ``max_frames``.

    Args:
        source: Any video that PyAV reads.
        target: The ``.mp4`` to write.
        model: A Vision Transformer.
        size: Pixels of the shorter side of a frame, as the network sees it.
        max_frames: Number of frames to look at.
        advance: Called after each frame with the number done, and about how many there are.

    Raises:
        ImageError: The video is damaged, or beyond a limit.
        MissingExtraError: PyAV is not installed.
    """
    preprocess = model.preprocess(size)
    with VideoFile(source, name=source.name) as video:
        total, rate = video.frame_count, video.rate
        if total / rate > MAX_SECONDS:
            reason = f"expected at most {MAX_SECONDS} seconds, got {float(total / rate):.0f}"
            raise ImageError(source.name, "too_large", reason)
        step = max(1, math.ceil(total / max_frames))
        wanted = math.ceil(total / step) or max_frames
        done, scale = 0, None
        with video_file(target, rate=rate / step) as written:
            for frame in video.frames(step=step, max_frames=max_frames):
                picture, values = _mean_attention(frame, model, preprocess, name=source.name)
                scale = Scale.after(scale, values)
                written.write(heat_overlay(picture, values, scale=scale))
                done += 1
                advance(done, wanted)
    return Clip(done, float(done * step / rate))


def _mean_attention(
    frame: UInt8[np.ndarray, "height width 3"], model: Model, preprocess: Preprocess, *, name: str
) -> tuple[np.ndarray, np.ndarray]:
    height, width = frame.shape[:2]
    if height * width > MAX_FRAME_PIXELS:
        reason = f"expected at most {MAX_FRAME_PIXELS} pixels a frame, got {width} x {height}"
        raise ImageError(name, "too_large", reason)
    checked_view(height, width, preprocess=preprocess, patch_size=model.patch_size, path=name)
    with model.lock:
        maps = attention_maps(frame, backbone=model.backbone, preprocess=preprocess, path=name)
    return maps.picture, maps.heads.mean(axis=0)
