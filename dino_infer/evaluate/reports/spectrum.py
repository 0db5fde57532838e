"""Singular values of features as curves."""

import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from PIL import Image

DPI = 120
SMALLEST = 1e-6
"""Lower end of the axis; what is below is as good as nothing."""


def spectrum_picture(spectra: Mapping[str, Float[np.ndarray, " _directions"]]) -> Image.Image:
    """Singular values by rank, relative to the largest: a curve that falls early is a collapse.

    Args:
        spectra: Singular values from the largest on, by the name of their contestant.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.add_subplot()
    for name, values in spectra.items():
        shares = np.maximum(values / max(float(values[0]), 1e-30), SMALLEST)
        axis.plot(np.arange(1, len(values) + 1), shares, label=name)
    axis.set(yscale="log", ylim=(SMALLEST, 2), xlabel="direction", xlim=(0, None))
    axis.set_ylabel("singular value, relative to the largest")
    axis.grid(alpha=0.3)
    axis.legend()
    page = io.BytesIO()
    figure.savefig(page, dpi=DPI, format="png")
    return Image.open(page)
