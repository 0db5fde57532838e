"""The view that a network is best at, measured on the example photos, to open the page with."""

from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from dino_app.demo.examples import example_photos
from dino_app.demo.models import Look, Model
from dino_app.demo.uploads import checked_picture
from dino_infer.attention.maps import MASS, grid_masks
from dino_infer.evaluate.measures.overlaps import centred_ellipse

SUBJECTS = {
    "coffee": (0.13, 0.04, 0.80, 0.96),
    "astronaut": (0.05, 0.03, 0.74, 1.00),
    "rocket": (0.47, 0.30, 0.53, 0.95),
    "temple": (0.12, 0.08, 0.57, 0.95),
    "flower": (0.26, 0.20, 0.70, 0.84),
}
"""Left, top, right and bottom of what a photo shows, in shares of its sides; the cat fills its."""
SMALL = 0.5  # of the size that suits the network: measuring must not delay the start


class FirstView(NamedTuple):
    """A tab to open the page with, and the photo to show in it."""

    tab: str
    """``id`` of the tab."""
    photo: str | None


def first_view(model: Model) -> FirstView:
    """Attention or objects, whichever finds the subjects of the example photos better.

    Found is measured by intersection over union with the box around the subject. Where neither
    finds more than an ellipse in the middle of the picture does, patches to click are shown.
    """
    photos = {name: path for path in example_photos() if (name := _name(path)) in SUBJECTS}
    if not model.has_attention:
        return FirstView("search", None)
    if not photos:
        return FirstView("attention", None)
    overlaps: dict[str, list[float]] = {"patches": [], "objects": [], "attention": []}
    for name, path in photos.items():
        size = max(model.patch_size, round(SMALL * model.default_size))
        look = model.look(checked_picture(path), size=size)
        grid = (look.view.rows, look.view.columns)
        subject = _box(SUBJECTS[name], grid)
        guess = centred_ellipse(*grid)  # of somebody who has not looked
        masks = {"patches": guess, "objects": _object(look), "attention": _attended(look)}
        for tab, mask in masks.items():
            overlaps[tab].append(float((mask & subject).sum() / (mask | subject).sum()))
    tab = max(overlaps, key=lambda tab: sum(overlaps[tab]))
    return FirstView(tab, list(photos.values())[int(np.argmax(overlaps[tab]))])


def _attended(look: Look) -> Bool[np.ndarray, "rows columns"]:
    """The mask that the attention tab outlines."""
    return grid_masks(look.attention[-1].mean(axis=0), MASS)


def _object(look: Look) -> Bool[np.ndarray, "rows columns"]:
    """The mask that the objects tab shows."""
    found = look.objects("tokencut")
    return found[0].mask if found else np.zeros((look.view.rows, look.view.columns), dtype=np.bool_)


def _box(
    place: tuple[float, float, float, float], grid: tuple[int, int]
) -> Bool[np.ndarray, "rows columns"]:
    """The patches whose centres lie in a box."""
    left, top, right, bottom = place
    rows, columns = ((np.arange(count) + 0.5) / count for count in grid)
    inside: np.ndarray = ((rows >= top) & (rows <= bottom))[:, None] & (
        (columns >= left) & (columns <= right)
    )
    return inside


def _name(path: str) -> str:
    return PurePath(path).stem
