"""The confusion matrix: counts against a count by hand, and pictures that can be looked at."""

import numpy as np
import pytest
from PIL import Image

from dino_infer.evaluate.reports.confusion import (
    class_results,
    confusion_percent,
    confusion_picture,
)


def test_class_results_equal_a_count_by_hand():
    wanted = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    predicted = np.array([0, 2, 2, 1, 1, 1, 0, 1, 2])
    assert class_results(wanted, predicted, classes_number=4) == [
        (4, 1, 2, 2),
        (2, 2, None, 0),
        (3, 1, 0, 1),  # as often for 0 as for 1: the first
        (0, 0, None, 0),
    ]
    shares = confusion_percent(wanted, predicted, classes_number=4)
    np.testing.assert_allclose(shares[0], [25, 25, 50, 0])
    np.testing.assert_allclose(shares[3], 0)
    blocks = confusion_percent(wanted, predicted, classes_number=4, block=3)
    np.testing.assert_allclose(blocks, [[100, 0], [0, 0]])
    blocks = confusion_percent(wanted, predicted, classes_number=4, block=2)
    np.testing.assert_allclose(blocks, [[100, 50], [100 / 3, 100 / 3]])


@pytest.mark.parametrize("classes", [2, 30, 60, 2500])
def test_the_confusion_picture_shows_the_diagonal_whatever_the_number_of_classes(classes):
    wanted = np.repeat(np.arange(classes), 2)
    names = [f"class {i}" for i in range(classes)]
    right = np.asarray(confusion_picture(wanted, wanted, names=names, title="all right"))
    wrong = np.asarray(
        confusion_picture(wanted, wanted[::-1].copy(), names=names, title="all wrong")
    )
    assert right.shape == wrong.shape and max(right.shape) < 2000
    side = right[:, : right.shape[1] * 3 // 4]  # without the colour bar
    dark = side[..., 2].astype(int) - side[..., 0] > 60
    rows, columns = np.nonzero(dark)
    assert len(rows) > 500
    assert np.corrcoef(rows, columns)[0, 1] > 0.5
    assert (right != wrong).any()


def test_names_of_any_kind_can_be_drawn():
    names = ["$x^{$", "犬" * 40, "two\nlines", "\\frac{"]
    classes = np.arange(4)
    picture = confusion_picture(classes, classes, names=names, title="$ 100 %")
    assert isinstance(picture, Image.Image)
