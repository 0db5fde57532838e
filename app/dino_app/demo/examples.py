"""Photos to try, from packages that are installed anyway: nothing is downloaded."""

import functools
import importlib.util
import shutil
import tempfile
from pathlib import Path

import gradio as gr

# The footer of the page credits them.
PHOTOS = {
    "cat.png": ("skimage", "data/chelsea.png"),  # Stefan van der Walt, CC0
    "coffee.png": ("skimage", "data/coffee.png"),  # Rachel Michetti, CC0
    "astronaut.png": ("skimage", "data/astronaut.png"),  # NASA, public domain
    "rocket.jpg": ("skimage", "data/rocket.jpg"),  # SpaceX, public domain
    "temple.jpg": ("sklearn", "datasets/images/china.jpg"),  # danielbuechele, CC BY 2.0
    "flower.jpg": ("sklearn", "datasets/images/flower.jpg"),  # vultilion, CC BY 2.0
}


@functools.cache
def example_photos() -> list[str]:
    """Paths of the photos that the installed packages have; maybe none.

    They are copies in a folder of their own, because Gradio serves nothing from where packages are.
    """
    folder = Path(_folder().name)
    found = []
    for name, (package, inside) in PHOTOS.items():
        spec = importlib.util.find_spec(package)
        source = Path(spec.origin).parent / inside if spec and spec.origin else None
        if source is not None and source.is_file():
            found.append(shutil.copyfile(source, folder / name))
    return [str(path) for path in found]


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
