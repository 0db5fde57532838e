import numpy as np

from dino_infer.evaluate.reports.mask_pictures import Curve, Panels, mask_curves, mask_sheet


def panels(height, width):
    picture = np.full((height, width, 3), 200, np.uint8)
    mask = np.zeros((height, width), np.bool_)
    mask[: height // 2] = True
    return Panels(title="x" * 200 + ".jpg: 50 %", picture=picture, truth=mask, mask=~mask)


def test_a_sheet_has_a_row_for_each_image_of_any_shape():
    sheet = np.asarray(mask_sheet([panels(40, 60), panels(90, 30)]))
    one = np.asarray(mask_sheet([panels(40, 60)]))
    assert sheet.shape[1] == one.shape[1]
    np.testing.assert_array_equal(sheet[: len(one)], one)
    # The mask is tinted where the ground truth is not.
    third = one.shape[1] // 3
    middle = one[:, third:].astype(int)
    assert (middle[:, :third] != middle[:, third : 2 * third]).any()


def test_curves_are_drawn_with_their_floors():
    masses = np.array([0.2, 0.6, 1.0])
    curve = Curve("model, mean head", masses, 1 - masses / 2, masses, masses / 3, 1)
    drawn = np.asarray(mask_curves([curve], {"centred ellipse": 0.4}))
    without = np.asarray(mask_curves([curve], {}))
    assert drawn.shape == without.shape
    assert (drawn != without).any()
