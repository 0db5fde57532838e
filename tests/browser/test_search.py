"""Search my photos, used as a person uses it: among uploads, and in an index."""

from tests.browser.driving import dismiss, shown, type_number, upload
from tests.browser.indexed import HOSTILE, open_tab

RESULTS = "search-results"


def captions(page):
    return page.locator(f"#{RESULTS} .caption-label").all_inner_texts()


def ask(page, photo, said):
    upload(page, "search-photo", photo)
    page.locator("#search-told", has_text=said).wait_for()
    shown(page, RESULTS)


def refine(page, text):
    box = page.locator("#search-filter textarea, #search-filter input").first
    box.fill(text)
    box.press("Enter")


def test_uploads_are_searched_and_a_result_searches_on(page, squares):
    open_tab(page, "Search my photos")
    photos = sorted(squares.rglob("*.png"))
    page.locator("#search-photos input[type=file]").first.set_input_files(photos)
    page.get_by_text("12 photos · 128 numbers each").wait_for()
    ask(page, squares / "coffee" / "2.png", "12 photos like the photo you gave.")
    assert captions(page)[0].startswith("1.00 · 2.png") and len(captions(page)) == 12
    chosen = captions(page)[1].split(" · ")[1]
    page.locator(f"#{RESULTS} .thumbnail-item").nth(1).click()
    page.locator("#search-told", has_text=f"11 photos like {chosen}.").wait_for()
    assert chosen not in [caption.split(" · ")[1] for caption in captions(page)]
    refine(page, '{"width": oops}')
    dismiss(page, "the filter is not JSON")
    assert len(captions(page)) == 11
    refine(page, '{"path": {"$in": ["0.png", "1.png"]}}')
    page.locator("#search-told", has_text="that pass the filter").wait_for()
    assert len(captions(page)) <= 2


def test_an_index_is_searched_and_another_network_refused(opened, indexed_url, squares):
    page = opened(indexed_url)
    open_tab(page, "Search my photos")
    page.locator("#search-about", has_text="13 photos · 128 numbers each").wait_for()
    assert not page.locator("#search-photos").is_visible()
    ask(page, squares / "cat" / "0.png", "12 photos like the photo you gave.")
    assert {caption.split(" · ")[1] for caption in captions(page)[:2]} == {
        "0.jpg", HOSTILE.split("/")[1][-27:].rjust(28, "…"),
    }  # fmt: skip
    assert page.locator("img[src=x]").count() == 0  # a name is never markup
    type_number(page, "search-k", 3)
    page.locator("#search-told", has_text="3 photos like").wait_for()
    refine(page, '{"label": "coffee"}')
    page.locator("#search-told", has_text="that pass the filter").wait_for()
    page.locator("#picker input").click()
    page.get_by_role("option", name="late.safetensors", exact=True).click()
    dismiss(page, "the index was made differently")


def test_a_bad_photo_is_explained_and_a_phone_goes_on(phone, squares, tmp_path):
    open_tab(phone, "Search my photos")
    (tmp_path / "notes.png").write_bytes(b"Dear diary")
    photos = [tmp_path / "notes.png", squares / "cat" / "0.png", squares / "cat" / "1.png"]
    phone.locator("#search-photos input[type=file]").first.set_input_files(photos)
    dismiss(phone, "1 of 3 were left out")
    ask(phone, squares / "cat" / "1.png", "2 photos like the photo you gave.")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
