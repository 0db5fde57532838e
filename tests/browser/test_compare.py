"""The compare tab: two networks, one picture."""

import numpy as np

from tests.browser.driving import choose, difference, shown, source, upload
from tests.browser.indexed import open_tab

RESULTS = ("compare-attention-1", "compare-attention-2", "compare-pca-1", "compare-pca-2")
OTHER = 4.5  # levels; JPEG alone stays below


BOXES = """(ids) => ids.map((id) => document.getElementById(id).getBoundingClientRect().toJSON())"""


def test_two_networks_are_shown_side_by_side_and_either_can_be_changed(page, coffee):
    page.get_by_role("tab", name="Compare").click()
    upload(page, "compare-picture", coffee)
    before = {name: shown(page, name) for name in RESULTS}
    assert all(picture.shape == (480, 720, 3) for picture in before.values())
    assert difference(before[RESULTS[0]], before[RESULTS[1]]) > OTHER
    assert difference(before[RESULTS[2]], before[RESULTS[3]]) > OTHER
    addresses = {name: source(page, name) for name in RESULTS}
    choose(page, "compare-second", "early.safetensors (untrained)")
    after = shown(page, RESULTS[1], after=addresses[RESULTS[1]])
    assert difference(before[RESULTS[1]], after) > 1
    assert np.array_equal(shown(page, RESULTS[0]), before[RESULTS[0]])


def test_on_a_phone_the_two_stay_side_by_side(phone, coffee):
    open_tab(phone, "Compare")
    upload(phone, "compare-picture", coffee)
    shown(phone, RESULTS[1])
    left, right = phone.evaluate(BOXES, RESULTS[:2])  # at once: the page is on its way to them
    assert abs(left["y"] - right["y"]) < 2 and left["x"] + left["width"] <= right["x"]
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
