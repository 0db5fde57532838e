"""Uploads are judged here, before any of them is decoded; what is wrong is said in plain words."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import UInt8
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dino_infer.errors import DinoError, ImageError, ImageErrorKind
from dino_infer.images.read import file_bytes, read_image

MAX_FILE_SIZE = 20 << 20  # bytes of one upload
MAX_PIXELS = 64_000_000  # of one picture: those of large phones, 190 MB decoded
UPLOAD_ROUTE = "/gradio_api/upload"
MESSAGE_S = 10  # seconds that a message stays

_ADVICE: dict[ImageErrorKind, str] = {
    "missing": "The upload is no longer there. Please upload it again.",
    "unreadable": "The upload cannot be read. Please upload it again.",
    "empty": "The file is empty.",
    "unsupported": "This kind of file cannot be used here.",
    "corrupt": "This file is damaged.",
    "too_large": "This is too large for the demo.",
}
_DETAILED = ("unsupported", "corrupt", "too_large")  # the others would tell where uploads lie


def checked_picture(
    path: str | None, *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """An uploaded picture, upright and RGB, at its full size.

    Args:
        path: Path that a ``picture_input`` or a ``gr.File`` hands over; None without one.
        max_pixels: Larger pictures are refused by their header.

    Raises:
        gr.Error: Nothing was chosen, or it cannot be read; the page shows the message.
    """
    if path is None:
        raise gr.Error("Choose a picture first.", duration=MESSAGE_S, print_exception=False)
    name = Path(path).name
    with plain_errors():
        return read_image(file_bytes(path, name=name), path=name, max_pixels=max_pixels)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Show what goes wrong inside as a message on the page; also a decorator of event functions.

    Raises:
        gr.Error: For a ``DinoError``, or for a ``ValueError``: an argument of the API.
    """
    try:
        yield
    except ImageError as error:
        details = f" {error.path}: {error.reason}." if error.kind in _DETAILED else ""
        raise said(_ADVICE[error.kind] + details) from error
    except (DinoError, ValueError) as error:
        raise said(_without_folders(str(error))) from error


def _without_folders(message: str) -> str:
    """A message without the folders of this machine, which are nobody's business."""
    return re.sub(r"(?<![\w.:/])/(?:[^\s/'\",:;]+/)+", "", message)


def said(message: str) -> gr.Error:
    """The error that shows a message and leaves no traceback in the log."""
    return gr.Error(message, duration=MESSAGE_S, print_exception=False)


def picture_input(label: str = "Picture", **options: Any) -> gr.Image:
    """A field to upload, paste or photograph a picture in; hands on the path of the file, unopened.

    Gradio itself would open it with Pillow and answer a damaged one with a traceback.
    """
    settings: dict[str, Any] = {
        "type": "filepath",
        "sources": ["upload", "clipboard", "webcam"],
        "buttons": [],  # the coordinates of clicks are wrong in "fullscreen"
        "height": 320,
    }
    field = gr.Image(label=label, **(settings | options))
    field.preprocess = _uploaded_path  # type: ignore[method-assign]
    return field


def _uploaded_path(payload: Any) -> str | None:
    """Path of the upload; Gradio has checked that it is one."""
    if payload is None:
        return None
    if not payload.path:
        raise said("Expected an uploaded file.")
    return str(payload.path)


class WholeUploads:
    """Makes Gradio delete what it has written of an upload that breaks off.

    It does so for a form that it cannot read only, so a client that goes and a limit that ends the
    upload become one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith(UPLOAD_ROUTE):
            await self._app(scope, receive, send)
            return
        ended: asyncio.CancelledError | None = None

        async def receive_whole() -> Message:
            nonlocal ended
            try:
                message = await receive()
            except asyncio.CancelledError as error:
                ended = error
                raise MultiPartException("the upload was ended") from error
            if message["type"] == "http.disconnect":
                raise MultiPartException("the upload broke off")
            return message

        async def send_unless_ended(message: Message) -> None:
            if ended is None:
                await send(message)

        await self._app(scope, receive_whole, send_unless_ended)
        if ended is not None:
            raise ended
