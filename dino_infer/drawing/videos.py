"""Videos frame by frame, in and out, with the memory of a few frames (PyAV, extra [video])."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from dino_infer.errors import ImageError, MissingExtraError
from dino_infer.files import whole_file
from dino_infer.images.encoded import DEFAULT_MAX_PIXELS
from dino_infer.images.read import IMAGE_SUFFIXES

MOMENTUM = 0.9  # per frame drawn


class Scale(NamedTuple):
    """The values that are drawn darkest and brightest."""

    low: float
    high: float

    @classmethod
    def after(cls, before: "Scale | None", values: np.ndarray) -> "Scale":
        """The running mean of the lowest and the highest value, with those of one more frame."""
        now = cls(float(values.min()), float(values.max()))
        if before is None:
            return now
        pairs = zip(before, now, strict=True)
        return cls(*(MOMENTUM * old + (1 - MOMENTUM) * new for old, new in pairs))


VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
"""Lower-case endings of the file names that count as videos; a .gif is an image."""

ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first one that this build of PyAV has
WHOLE = 0.9  # of the announced time; a video that ends before is damaged
USUAL_RATE = Fraction(25)  # frames a second where a file does not say


class VideoPath(NamedTuple):
    """A video and what to call it."""

    path: str
    name: str
    """The POSIX path below the folder it was found in, or the name of the file."""


class VideoFile:
    """One video, opened: a context manager that decodes frame by frame.

    Args:
        path: The file.
        name: Name of the video in errors; the path by default.

    Raises:
        ImageError: It is missing, unreadable, damaged or no video, or its frames are larger than
            an image may be.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: str | Path, *, name: str | None = None) -> None:
        self.name = str(path) if name is None else name
        self._av = imported_av()
        with self._typed_errors():
            self._container = self._av.open(os.fspath(path))
        try:
            self._stream = self._checked_stream()
        except ImageError:
            self._container.close()
            raise

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self._container.close()

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        rate = self._stream.average_rate or self._stream.guessed_rate or USUAL_RATE
        return Fraction(rate)

    @property
    def frame_count(self) -> int:
        """Number of frames by the header, or by its duration; 0 if it has neither."""
        return int(self._stream.frames or round((self._announced_s() or 0) * self.rate))

    def frames(
        self, *, step: int = 1, max_frames: int | None = None
    ) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Upright RGB frames, all of the size of the first; may be gone through once.

        Args:
            step: Take every so many frames.
            max_frames: Stop after so many taken frames.

        Raises:
            ImageError: The video is damaged, ends long before its announced end, or is empty.
        """
        taken, first, last = 0, None, None
        for i, frame in enumerate(self._decoded()):
            first = first or frame
            last = frame
            if i % step == 0:
                size = {"width": first.width, "height": first.height}
                rgb = frame.reformat(format="rgb24", **size).to_ndarray()
                # The file says how far to turn counterclockwise, as phones held upright ask for.
                yield np.ascontiguousarray(np.rot90(rgb, round(first.rotation / 90)))
                taken += 1
            if taken == max_frames:
                return
        self._check_whole(first, last)

    def _decoded(self) -> Iterator[Any]:
        with self._typed_errors():
            yield from self._container.decode(self._stream)

    def _checked_stream(self) -> Any:
        if not self._container.streams.video:
            raise ImageError(self.name, "unsupported", "the file holds no video")
        stream = self._container.streams.video[0]
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > DEFAULT_MAX_PIXELS:
            reason = f"expected at most {DEFAULT_MAX_PIXELS} pixels a frame, got {width} x {height}"
            raise ImageError(self.name, "too_large", reason)
        stream.thread_type = "AUTO"
        return stream

    def _announced_s(self) -> float | None:
        """Length in time that the header announces for the pictures, if it does."""
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        if container.duration is not None and len(container.streams) == 1:
            return float(container.duration) / 1e6  # microseconds
        return None

    def _check_whole(self, first: Any, last: Any) -> None:
        """Check that the video is whole: truncated containers end without an error."""
        if first is None:
            raise ImageError(self.name, "corrupt", "the video holds no frame that can be decoded")
        announced_s = self._announced_s()
        if announced_s is None or first.time is None or last.time is None:
            return
        seen_s = float(last.time - first.time + 1 / self.rate)
        if seen_s < WHOLE * announced_s:
            reason = f"it ends after {seen_s:.1f} of the {announced_s:.1f} s that it announces"
            raise ImageError(self.name, "corrupt", reason)

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        """Turn what PyAV raises into an ImageError."""
        try:
            yield
        except self._av.error.FileNotFoundError as error:
            raise ImageError(self.name, "missing", "no such file") from error
        except OSError as error:
            reason = f"cannot read it: {error.strerror or error}"
            raise ImageError(self.name, "unreadable", reason) from error
        except self._av.error.FFmpegError as error:
            reason = f"damaged, or no video that is read here: {error.strerror}"
            raise ImageError(self.name, "corrupt", reason) from error


class VideoWriter:
    """Takes frames of one size and encodes them; made by ``video_file``."""

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._av = imported_av()
        self._container = self._av.open(str(path), "w", options={"movflags": "+faststart"})
        self._rate = rate
        self._stream: Any = None

    def write(self, frame: UInt8[np.ndarray, "height width 3"]) -> None:
        """Add a frame; an odd last row or column is cut off, because H.264 halves the colours."""
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._stream is None:
            self._stream = self._new_stream(height, width)
        even = np.ascontiguousarray(frame[:height, :width])
        picture = self._av.VideoFrame.from_ndarray(even, format="rgb24")
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _new_stream(self, height: int, width: int) -> Any:
        known = self._av.codecs_available
        stream = self._container.add_stream(
            next(name for name in ENCODERS if name in known), rate=self._rate
        )
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        if stream.codec_context.name == "libx264":
            stream.options = {"crf": "20", "preset": "veryfast"}
        else:
            stream.bit_rate = 4 * height * width  # about the same quality at 30 frames a second
        return stream


@contextmanager
def video_file(path: str | Path, *, rate: Fraction) -> Iterator[VideoWriter]:
    """An .mp4 to write frames to, H.264 where PyAV has it; whole or not there.

    Args:
        path: The video to create or replace when the block ends well.
        rate: Frames a second.
    """
    with whole_file(path) as temporary:
        writer = VideoWriter(temporary, rate)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def split_videos(sources: Sequence[str]) -> tuple[list[VideoPath], list[str]]:
    """The videos among sources, and the sources that are left to ``list_images``.

    A source is a video by its suffix, or a folder that is searched for videos with all its
    subfolders; hidden ones do not count. A folder of videos is also left to ``list_images`` where
    it holds images too.
    """
    videos, others = [], []
    for source in sources:
        if _is_video(source) and not os.path.isdir(source):
            videos.append(VideoPath(source, os.path.basename(source)))
            continue
        found, has_images = _in_folder(source)
        videos += found
        if has_images or not found:
            others.append(source)
    return videos, others


def imported_av() -> Any:
    """PyAV, imported on first use.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(
            f"videos need PyAV, which cannot be imported ({error}); "
            "install it with: pip install 'dino-toolkit[video]'"
        ) from error
    return av


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES)


def _in_folder(folder: str) -> tuple[list[VideoPath], bool]:
    """Videos below a folder in the order of their names, and whether it holds images."""
    names, has_images = [], False
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = [name for name in files if not name.startswith(".")]
        has_images |= any(name.lower().endswith(IMAGE_SUFFIXES) for name in visible)
        inside = (os.path.join(parent, name) for name in visible if _is_video(name))
        names += [os.path.relpath(path, folder) for path in inside]
    paths = [VideoPath(os.path.join(folder, name), Path(name).as_posix()) for name in sorted(names)]
    return paths, has_images
