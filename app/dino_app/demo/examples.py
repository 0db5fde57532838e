"""Photos to try, from packages that are installed anyway: nothing is downloaded."""

import functools
import shutil
import tempfile
from pathlib import Path

import gradio as gr

from dino_infer.errors import MissingExtraError
from dino_infer.samples import photo_paths

# Names here by those of ``samples``, which credits them, as the footer of the page does.
PHOTOS = {
    "chelsea": "cat",
    "coffee": "coffee",
    "astronaut": "astronaut",
    "rocket": "rocket",
    "china": "temple",
    "flower": "flower",
}


@functools.cache
def example_photos() -> list[str]:
    """Paths of the photos that the installed packages have; maybe none.

    They are copies in a folder of their own, because Gradio serves nothing from where packages are.
    """
    try:
        paths = photo_paths()
    except MissingExtraError:
        return []
    folder = Path(_folder().name)
    found = {name: paths[key] for key, name in PHOTOS.items() if key in paths}
    return [
        str(shutil.copyfile(path, folder / f"{name}{path.suffix}")) for name, path in found.items()
    ]


def picture_examples(field: gr.Image) -> None:
    """A row of photos that fill a field when they are clicked."""
    if photos := example_photos():
        gr.Examples(
            [[path] for path in photos],
            [field],
            label="Or try one of these",
            examples_per_page=len(photos),
            elem_id=f"{field.elem_id}-examples",
            api_visibility="private",
        )


@functools.cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder that lives as long as the process."""
    return tempfile.TemporaryDirectory(prefix="dino-demo-")
