"""Every tab on a desktop and on a phone, light and dark: one visit checks many things."""

from pathlib import Path

import axe_playwright_python
import pytest

from tests.browser.conftest import PHONE
from tests.browser.driving import shown, upload
from tests.browser.indexed import open_tab

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
SERIOUS = ("serious", "critical")
LAPTOP = {"width": 1280, "height": 800}
NARROW = """() => [...document.querySelectorAll("p, li, h1, h2, h3, td, button, label span")]
  .filter((part) => part.offsetParent && part.innerText && part.innerText.trim().length >= 12)
  .filter((part) => {
    const box = part.getBoundingClientRect(), size = parseFloat(getComputedStyle(part).fontSize);
    return box.width > 0 && box.width < 12 * 0.5 * size && box.height > 2.2 * size;
  }).map((part) => part.innerText)"""
"""Texts of several lines in a column of fewer than 12 characters, half as wide as high."""
IN_VIEW = """(id) => {
  const box = document.getElementById(id).getBoundingClientRect();
  return box.top > -40 && box.top < innerHeight / 2;
}"""
UPLOADS = {
    "Attention": ("attention-picture", "attention-slider", 1, "attention-result"),
    "Objects": ("objects-picture", "objects-shown", 0, "objects-result"),
    "PCA colours": ("pca-photos", "pca-gallery", 1, "pca-result"),
    "Paint": ("paint-photos", "paint-gallery", 0, "paint-result"),
    "Compare": ("compare-picture", "compare-pca-2", 0, "compare-result"),
}
"""Upload field, where the result comes and how many pictures before it, and the part in view."""
OTHERS = ("Click a patch", "Track", "Search", "Classify", "Video")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_every_tab_fits_can_be_read_and_shows_its_result(opened, indexed_url, coffee, size, dark):
    page = opened(indexed_url, size=size, dark=dark, has_touch=size is PHONE)
    violations = {}
    for name in [*UPLOADS, *OTHERS]:
        open_tab(page, name)
        if name in UPLOADS:
            field, result, number, part = UPLOADS[name]
            upload(page, field, coffee)
            shown(page, result, number)
            page.wait_for_function(IN_VIEW, arg=part)
        page.wait_for_timeout(300)  # Gradio fades parts in, and faint text has no contrast
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.evaluate(NARROW) == [], name
        if name == "Attention":
            page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        for one in found["violations"]:
            if one["impact"] in SERIOUS:
                violations[name, one["id"]] = [node["html"][:200] for node in one["nodes"]]
    assert violations == {}, "\n".join(map(str, violations.items()))


def test_the_page_opens_with_a_computed_example(browser, demo_url):
    """The networks are untrained: patches to click, and the middle of the photo is asked for."""
    page = browser.new_page()
    page.goto(demo_url)
    page.get_by_role("tab", name="Click a patch", selected=True).wait_for(timeout=60_000)
    assert shown(page, "patches-picture").std() > 20
    page.get_by_text("This asks for the middle of the picture.").wait_for()
    assert page.evaluate("scrollY") == 0
    page.close()
