"""Buttons that make a file when they are clicked, and hand it to the browser to keep."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dino_app.demo.uploads import plain_errors

_SAVE = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name;
  link.click();
}"""
"""Runs in the browser, with the file that a click has made."""


def save_button(label: str, *, elem_id: str) -> tuple[gr.Button, gr.File]:
    """Build the button, and the hidden file that ``connect_save`` fills."""
    return gr.Button(label, size="sm", elem_id=elem_id), gr.File(visible=False)


def connect_save(
    button: gr.Button,
    made: gr.File,
    make: Callable[..., str | None],
    inputs: Sequence[Any],
) -> None:
    """Write the file after a click: made after every change, it would slow the next one.

    Args:
        button: The button.
        made: The hidden file beside it.
        make: Function of a new folder and the values of ``inputs``; returns the path of the file
            that it wrote there, or None.
        inputs: Components.
    """

    @plain_errors()
    def written(*values: Any) -> str | None:
        folder = new_folder(made)
        return make(folder, *values)

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    asked = button.click(written, list(inputs), made, **quiet)
    asked.success(None, made, None, js=_SAVE, **quiet)


def new_folder(component: gr.File | gr.Video) -> Path:
    """A folder of nobody else's, whose files the page may serve and clears away."""
    folder = Path(component.GRADIO_CACHE) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    return folder
