"""Several uploads at once: a field for them, and what can be read of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from jaxtyping import UInt8

from dino_app.demo.examples import example_photos
from dino_app.demo.uploads import checked_picture, said


def photos_input(label: str, **options: Any) -> gr.File:
    """A field for several photos; hands on the paths of the files, unopened."""
    settings: dict[str, Any] = {"file_count": "multiple", "file_types": ["image"], "height": 160}
    field = gr.File(label=label, **(settings | options))
    field.preprocess = _uploaded_paths  # type: ignore[method-assign]
    return field


def photos_to_try(most: int, *, elem_id: str) -> gr.File:
    """A ``photos_input``, and a button that fills it with the example photos."""
    photos = photos_input(f"Photos, up to {most}", elem_id=elem_id)
    samples = gr.Button("Try it with the example photos", size="sm")
    samples.click(lambda: example_photos()[:most], None, photos, api_visibility="private")
    return photos


def readable_photos(
    paths: Sequence[str] | None, *, most: int
) -> Iterator[tuple[str, UInt8[np.ndarray, "height width 3"]]]:
    """Name and upright RGB picture of each upload that can be read; the page warns of the others.

    Only one picture is held at a time.

    Args:
        paths: Value of a ``photos_input``.
        most: Number that is allowed.

    Raises:
        gr.Error: There is none, too many, or none can be read.
    """
    if not paths:
        raise said("Choose photos first.")
    if len(paths) > most:
        raise said(f"Expected at most {most} photos, got {len(paths)}. Choose fewer.")
    problems = []
    for path in paths:
        try:
            picture = checked_picture(path)
        except gr.Error as error:
            problems.append(error.message)
            continue
        yield Path(path).name, picture
    if len(problems) == len(paths):
        raise said(f"None of the photos can be read. The first: {problems[0]}")
    if problems:
        gr.Warning(f"{len(problems)} of {len(paths)} were left out. The first: {problems[0]}")


def _uploaded_paths(payload: Any) -> list[str] | None:
    """Paths of the uploads; Gradio has checked that they are some."""
    return None if payload is None else [str(file.path) for file in payload]
