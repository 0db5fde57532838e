"""Short videos, within limits: attention frame by frame, or a mask that follows a thing."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from dino_app.demo.models import Model
from dino_infer.attention.maps import attention_maps
from dino_infer.attention.patches import patch_tokens
from dino_infer.drawing.overlays import heat_overlay
from dino_infer.drawing.videos import Scale, VideoFile, video_file
from dino_infer.errors import ImageError
from dino_infer.objects.propagation import propagate_labels

MAX_SECONDS = 60
MAX_FRAME_PIXELS = 9_000_000  # of one frame: 4K

Frame = UInt8[np.ndarray, "_height _width 3"]


class Clip(NamedTuple):
    """Frames and seconds of a video that was written."""

    frames: int
    seconds: float


Draw = Callable[[Iterable[Frame]], Iterator[Frame]]
"""Makes a picture of each frame; it may look ahead."""


def write_clip(
    source: Path,
    target: Path,
    draw: Draw,
    *,
    max_frames: int,
    advance: Callable[[int, int], None],
) -> Clip:
    """Write a video of what is drawn on the frames of another one, as long as that.

    Frames are left out evenly where there are more than ``max_frames``.

    Args:
        source: Any video that PyAV reads.
        target: The ``.mp4`` to write.
        draw: ``attention_of`` or ``tracked`` with its settings.
        max_frames: Number of frames to look at.
        advance: Function of the number of frames done and about how many there are.

    Raises:
        ImageError: The video is damaged, or beyond a limit.
        MissingExtraError: PyAV is not installed.
    """
    with VideoFile(source, name=source.name) as video:
        total, rate = video.frame_count, video.rate
        if total / rate > MAX_SECONDS:
            reason = f"expected at most {MAX_SECONDS} seconds, got {float(total / rate):.0f}"
            raise ImageError(source.name, "too_large", reason)
        step = max(1, math.ceil(total / max_frames))
        wanted = math.ceil(total / step) or max_frames
        done = 0
        frames = map(partial(_checked, name=source.name),
                     video.frames(step=step, max_frames=max_frames))  # fmt: skip
        with video_file(target, rate=rate / step) as written:
            for picture in draw(frames):
                written.write(picture)
                done += 1
                advance(done, wanted)
    return Clip(done, float(done * step / rate))


def first_frame(source: Path) -> Frame:
    """The first frame of a video, upright.

    Raises:
        ImageError: The video is damaged, or its frames are too large.
        MissingExtraError: PyAV is not installed.
    """
    with VideoFile(source, name=source.name) as video:
        return _checked(next(video.frames(max_frames=1)), name=source.name)


def attention_of(frames: Iterable[Frame], *, model: Model, size: int) -> Iterator[Frame]:
    """The mean attention of the heads over each frame, looked at by itself.

    Args:
        frames: The frames.
        model: A Vision Transformer.
        size: Pixels of the shorter side of a frame, as the network sees it.
    """
    scale, preprocess = None, model.preprocess(size)
    for frame in frames:
        with model.lock:
            maps = attention_maps(frame, backbone=model.backbone, preprocess=preprocess)
        values = maps.heads.mean(axis=0)
        scale = Scale.after(scale, values)
        yield heat_overlay(maps.picture, values, scale=scale)


def tracked(
    frames: Iterable[Frame],
    *,
    model: Model,
    size: int,
    inside: Callable[[Float32[np.ndarray, "rows columns dim"]], Bool[np.ndarray, "rows columns"]],
    draw: Callable[[Frame, Float32[np.ndarray, "rows columns"]], Frame],
) -> Iterator[Frame]:
    """A mask of the first frame, followed through the others by ``propagate_labels``.

    Args:
        frames: The frames.
        model: A Vision Transformer.
        size: Pixels of the shorter side of a frame, as the network sees it.
        inside: The mask of the first frame, from its patch tokens.
        draw: Function of a frame and the share of the thing in each patch of it.
    """
    pictures: deque[Frame] = deque()

    def tokens(frame: Frame) -> Float32[np.ndarray, "rows columns dim"]:
        with model.lock:
            seen = patch_tokens(frame, backbone=model.backbone, preprocess=model.preprocess(size))
        pictures.append(seen.picture)
        return seen.tokens

    looked = map(tokens, frames)
    start = next(looked)
    mask = torch.from_numpy(inside(start)).float()
    shares = mask
    every = map(torch.from_numpy, chain([start], looked))
    for following in propagate_labels(every, torch.stack([1 - mask, mask])):
        yield draw(pictures.popleft(), shares.numpy())
        shares = following[1]
    yield draw(pictures.popleft(), shares.numpy())


def _checked(frame: Frame, *, name: str) -> Frame:
    height, width = frame.shape[:2]
    if height * width > MAX_FRAME_PIXELS:
        reason = f"expected at most {MAX_FRAME_PIXELS} pixels a frame, got {width} x {height}"
        raise ImageError(name, "too_large", reason)
    return frame
