"""PCA colours, used as a person uses them."""

import numpy as np

from tests.browser.driving import difference, dismiss, shown, shown_when
from tests.browser.indexed import open_tab

GALLERY = "pca-gallery"
SAME = 4  # levels: WebP stays below


def coloured(page, *photos):
    open_tab(page, "PCA colours")
    page.locator("#pca-photos input[type=file]").first.set_input_files([str(p) for p in photos])
    return [shown(page, GALLERY, number) for number in range(2 * len(photos))]


def black(picture):
    return float((picture.max(axis=-1) < 12).mean())


def test_photos_are_shown_beside_their_colours(page, cat, coffee):
    photo, colours, other, _ = coloured(page, cat, coffee)
    assert photo.shape == colours.shape
    assert min(difference(photo, colours), difference(photo, other)) > 5 * SAME
    text = page.locator("#pca-explained").inner_text()
    assert "of what tells patches apart" in text and "all 2 photos" in text
    assert page.locator(f"#{GALLERY} .caption-label").all_inner_texts() == [
        "cat.png", "colours", "coffee.jpg", "colours",
    ]  # fmt: skip


def test_the_subject_can_be_cut_out(page, cat):
    photo, colours = coloured(page, cat)
    page.get_by_label("Smooth between patches").uncheck()
    page.locator("#pca-show").get_by_text("subject", exact=True).click()
    subject = shown_when(page, GALLERY, lambda picture: black(picture) > 0.02, 1)
    assert black(colours) < 0.02 < black(subject) < 0.98
    page.locator("#pca-show").get_by_text("background", exact=True).click()
    rest = 1 - black(subject)
    shown_when(page, GALLERY, lambda picture: abs(black(picture) - rest) < 0.05, 1)
    np.testing.assert_array_equal(shown(page, GALLERY, 0), photo)


def test_a_bad_photo_is_left_out_and_named(page, cat, tmp_path):
    (tmp_path / "notes.png").write_bytes(b"Dear diary")
    open_tab(page, "PCA colours")
    photos = [str(tmp_path / "notes.png"), str(cat)]
    page.locator("#pca-photos input[type=file]").first.set_input_files(photos)
    dismiss(page, "1 of 2 were left out")
    assert shown(page, GALLERY, 1).shape == (256, 384, 3)


def test_on_a_phone_the_examples_are_a_tap_away(phone):
    open_tab(phone, "PCA colours")
    phone.get_by_role("button", name="Try it with the example photos").tap()
    assert shown(phone, GALLERY, 1).ndim == 3
    phone.get_by_text("of what tells patches apart").wait_for()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
