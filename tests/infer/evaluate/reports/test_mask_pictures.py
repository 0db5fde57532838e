import numpy as np

from dino_infer.evaluate.reports.mask_pictures import (
    Curve,
    Panels,
    label_overlay,
    mask_curves,
    mask_sheet,
)


def panels(height, width):
    picture = np.full((height, width, 3), 200, np.uint8)
    return Panels(title="x" * 200 + ".jpg: 50 %", pictures=[picture, picture // 2])


def test_a_sheet_has_a_row_for_each_image_of_any_shape():
    sheet = np.asarray(mask_sheet([panels(40, 60), panels(90, 30)], titles=["mask"]))
    one = np.asarray(mask_sheet([panels(40, 60)], titles=["mask"]))
    assert sheet.shape[1] == one.shape[1]
    np.testing.assert_array_equal(sheet[: len(one)], one)


def test_classes_have_colours_of_their_own_and_background_has_none():
    picture = np.random.default_rng(0).integers(0, 256, (1, 5, 3), dtype=np.uint8)
    labels = np.array([[0, 1, 2, 3, -1]], np.int32)
    drawn = label_overlay(picture, labels, classes_number=4)[0].astype(int)
    spread = np.ptp(drawn, axis=1)
    assert (spread[[0, 4]] == 0).all()
    assert (spread[1:4] > 60).all()
    assert len({tuple(color.argsort()) for color in drawn[1:4]}) == 3


def test_curves_are_drawn_with_their_floors():
    masses = np.array([0.2, 0.6, 1.0])
    curve = Curve("model, mean head", masses, 1 - masses / 2, masses, masses / 3, 1)
    drawn = np.asarray(mask_curves([curve], {"centred ellipse": 0.4}))
    without = np.asarray(mask_curves([curve], {}))
    assert drawn.shape == without.shape
    assert (drawn != without).any()
