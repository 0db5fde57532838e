"""Comparisons with PyTorch: shapes, and the bounds of each precision."""

from functools import partial

import numpy as np
import pytest

from dino_export.errors import ExportError
from dino_export.parity import Deviation, Parity, parity, sample_photos
from dino_infer.images.preprocess import Preprocess
from tests.export.networks import CPU, settings_of


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({0: (1, 4)}, r"output 'cls' must have the shape \(0, 4\), got \(1, 4\)"),
        ({3: (1, 4)}, r"output 'cls' must have the shape \(3, 4\), got \(1, 4\)"),
    ],
)
def test_outputs_of_another_shape_are_unequal_also_for_no_images(wrong, message):
    def run(shapes):
        return lambda images: {"cls": np.ones(shapes.get(len(images), (len(images), 4)))}

    compared = partial(
        parity,
        run({}),
        settings=settings_of("pt2", outputs=("cls",)),
        sizes=[(8, 8)],
        preprocess=Preprocess(),
        photos=sample_photos(),
        device=CPU,
    )
    assert compared(run({})).deviations["cls"].max_error == 0
    with pytest.raises(ExportError, match=message):
        compared(run(wrong))


@pytest.mark.parametrize(
    ("precision", "error", "cosine", "equal"),
    [
        ("fp32", 9e-5, 1.0, True),
        ("fp32", 2e-4, 1.0, False),
        ("fp32", 0.0, 0.9999, False),
        ("fp32", float("nan"), float("nan"), False),
        ("fp16", 1e-2, 0.99991, True),
        ("fp16", 1e-2, 0.9998, False),
        ("int8", 1e-1, 0.991, True),
        ("int8", 1e-1, 0.98, False),
    ],
)
def test_the_bounds_of_each_precision(tmp_path, precision, error, cosine, equal):
    row = Deviation(max_error=error, mean_error=error, cosine=cosine)
    found = Parity(deviations={"cls": row}, images=1, sizes=((8, 8),), neighbor_agreement=1.0)
    if equal:
        found.check(precision, tmp_path)
    else:
        with pytest.raises(ExportError, match="output 'cls' must have .* nothing was written"):
            found.check(precision, tmp_path)
