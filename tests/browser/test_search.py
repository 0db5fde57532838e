"""Search my photos, used as a person uses it: among uploads, and in an index."""

from tests.browser.driving import choose, dismiss, shown, type_number, upload
from tests.browser.indexed import HOSTILE, open_tab

RESULTS = "search-results"


def captions(page):
    return page.locator(f"#{RESULTS} .caption-label").all_inner_texts()


def ask(page, photo, said):
    upload(page, "search-photo", photo)
    page.locator("#search-told", has_text=said).wait_for()
    shown(page, RESULTS)


def test_uploads_are_searched_and_a_result_searches_on(page, squares):
    open_tab(page, "Search")
    photos = sorted(squares.rglob("*.png"))
    page.locator("#search-photos input[type=file]").first.set_input_files(photos)
    page.get_by_text("12 photos · 128 numbers each").wait_for()
    ask(page, squares / "coffee" / "2.png", "12 photos like the photo you gave.")
    assert captions(page)[0].startswith("1.000 · 2.png") and len(captions(page)) == 12
    chosen = captions(page)[1].split(" · ")[1]
    page.locator(f"#{RESULTS} .thumbnail-item").nth(1).click()
    page.locator("#search-told", has_text=f"11 photos like {chosen}.").wait_for()
    assert chosen not in [caption.split(" · ")[1] for caption in captions(page)]
    assert not page.locator("#search-filter").is_visible()  # uploads have nothing to choose by


def test_an_index_is_searched_and_another_network_refused(opened, indexed_url, squares):
    page = opened(indexed_url)
    open_tab(page, "Search")
    page.locator("#search-about", has_text="13 photos · 128 numbers each").wait_for()
    assert not page.locator("#search-photos").is_visible()
    ask(page, squares / "cat" / "0.png", "12 photos like the photo you gave.")
    assert {caption.split(" · ")[1] for caption in captions(page)[:2]} == {
        "0.jpg", HOSTILE.split("/")[1][-27:].rjust(28, "…"),
    }  # fmt: skip
    assert page.locator("img[src=x]").count() == 0  # a name is never markup
    type_number(page, "search-k", 3)
    page.locator("#search-told", has_text="3 photos like").wait_for()
    choose(page, "search-filter", "label: coffee")
    page.locator("#search-told", has_text="that pass the filter").wait_for()
    page.locator("#picker input").click()
    page.get_by_role("option", name="late.safetensors", exact=True).click()
    page.locator("#search-told", has_text="another network than late.safetensors").wait_for()
    page.locator("#search-switch", has_text="Switch to early.safetensors").click()
    page.locator("#search-told", has_text="photos like the photo you gave").wait_for()


def test_a_bad_photo_is_explained_and_a_phone_goes_on(phone, squares, tmp_path):
    open_tab(phone, "Search")
    (tmp_path / "notes.png").write_bytes(b"Dear diary")
    photos = [tmp_path / "notes.png", squares / "cat" / "0.png", squares / "cat" / "1.png"]
    phone.locator("#search-photos input[type=file]").first.set_input_files(photos)
    dismiss(phone, "1 of 3 were left out")
    ask(phone, squares / "cat" / "1.png", "2 photos like the photo you gave.")
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
