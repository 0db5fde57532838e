"""Classify, used as a person uses it."""

from tests.browser.driving import dismiss, move, upload
from tests.browser.indexed import open_tab


def classified(page, photo):
    open_tab(page, "Classify")
    upload(page, "classify-photo", photo)
    page.locator("#classify-told", has_text="of the votes of").wait_for()
    return page.locator("#classify-told").inner_text()


def test_neighbours_vote_and_more_or_fewer_of_them_can(opened, indexed_url, squares):
    page = opened(indexed_url)
    assert "of the votes of 12 photos" in classified(page, squares / "coffee" / "3.png")
    assert page.get_by_text("12 labelled photos of 2 classes").is_visible()
    assert [cell(page, column) for column in range(3)] == ["coffee/3.png", "coffee", "1.000"]
    move(page, "classify-k", 1)
    page.locator("#classify-told", has_text="coffee has 100 % of the votes of 1 photos").wait_for()
    assert page.locator("#classify-label").inner_text().split()[-2:] == ["coffee", "100%"]
    move(page, "classify-k", 12)
    page.locator("#classify-told", has_text="of 12 photos").wait_for()
    before = float(cell(page, 3).removesuffix(" %"))
    told = page.locator("#classify-told").inner_text()
    move(page, "classify-temperature", 0.01)
    page.locator("#classify-told").get_by_text(told, exact=True).wait_for(state="detached")
    assert float(cell(page, 3).removesuffix(" %")) > before


def cell(page, column):
    """Of the first of those who voted."""
    return page.locator(f"#classify-votes [data-row='0'][data-col='{column}']").last.inner_text()


def test_a_bad_photo_is_explained_and_the_tab_goes_on(opened, indexed_url, squares, tmp_path):
    page = opened(indexed_url, size={"width": 390, "height": 844}, has_touch=True)
    open_tab(page, "Classify")
    (tmp_path / "notes.png").write_bytes(b"Dear diary")
    upload(page, "classify-photo", tmp_path / "notes.png")
    dismiss(page, "cannot be used here")
    assert "cat has" in classified(page, squares / "cat" / "0.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_labelled_photos_the_tab_says_how_to_get_them(page):
    open_tab(page, "Classify")
    assert page.get_by_text("Classifying needs labelled photos.").is_visible()
    assert page.get_by_text("--features").is_visible()
