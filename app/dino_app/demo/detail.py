"""Level of detail at which a network sees a picture, with one meaning for every network."""

import math

import gradio as gr
import numpy as np
from jaxtyping import UInt8

from dino_app.demo.models import Look, Model
from dino_infer.attention.views import MAX_PATCHES

DETAILS = {"low": 0.5, "normal": 1.0, "high": 2.0}  # of the size that suits the network


def detail_choice() -> gr.Radio:
    """Build the choice of the level of detail."""
    return gr.Radio(
        list(DETAILS), value="normal", label="Detail", info="More is finer, and slower."
    )


def detailed_look(model: Model, image: UInt8[np.ndarray, "height width 3"], detail: str) -> Look:
    """Look of a network at a picture, with less detail where there would be too many patches.

    Raises:
        ImageError: The picture is too elongated for any detail.
        ValueError: There is no such detail.
    """
    if detail not in DETAILS:
        raise ValueError(f"detail must be one of {list(DETAILS)}, got {detail!r}")
    shorter, longer = sorted(image.shape[:2])
    most = math.isqrt(MAX_PATCHES * shorter // longer) * model.patch_size
    return model.look(image, size=min(round(DETAILS[detail] * model.default_size), most))
