"""Click a patch, used as a person uses it: where the click is, the heat is."""

import numpy as np
import pytest
from PIL import Image

from tests.browser.driving import (
    choose,
    difference,
    dismiss,
    move,
    shown,
    shown_when,
    source,
    upload,
)
from tests.browser.indexed import open_tab as choose_tab

FIRST, SECOND = "patches-picture", "patches-second-picture"
SIZE, PATCH = 256, 8  # what the network ``early`` sees of the shorter side, and its patches
SAME = 4  # levels: WebP and another resampling stay below
PLACE = """element => {
  const {left, top, width, height} = element.getBoundingClientRect();
  return {left, top, width, height, columns: element.naturalWidth, rows: element.naturalHeight};
}"""
LOADED = "picture => picture.complete && picture.naturalWidth > 0"
STILL = """async () => {
  for (let before = null; before !== scrollY; ) {
    before = scrollY;
    await new Promise((done) => setTimeout(done, 150));
  }
}"""
SCROLLED = """y => {
  const before = scrollY;
  scrollBy({top: y - innerHeight / 2, behavior: "instant"});
  return scrollY - before;
}"""


MARKS = {(1, 2): (230, 30, 30), (20, 29): (20, 60, 240), (31, 0): (20, 220, 40)}
"""A patch in a colour of its own each, so that no other one can be as much like it."""


def marked(height, width):
    """A grey slope with the marks; its shorter side must be ``SIZE / PATCH`` patches."""
    patch = min(height, width) * PATCH // SIZE
    slope = np.linspace(90, 160, width, dtype=np.uint8)
    photo = np.ascontiguousarray(np.broadcast_to(slope[None, :, None], (height, width, 3)))
    for (row, column), color in MARKS.items():
        photo[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = color
    return photo


def turned(photo):
    """As a camera held upright writes it: lying on its side, with a note how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return np.rot90(photo), {"exif": exif}


PHOTOS = {
    "landscape": (marked(320, 480), {}),
    "turned": turned(marked(320, 480)),
    "tall": (marked(480, 128), {}),
    "tiny": (marked(32, 48), {}),
    "huge": (marked(3200, 4800), {"quality": 95}),  # as a PNG it is taken for a bomb
}


def save(kind, folder):
    photo, options = PHOTOS[kind]
    path = folder / (f"{kind}.jpg" if kind == "huge" else f"{kind}.png")
    Image.fromarray(photo).save(path, **options)
    return path


def open_tab(page):
    choose_tab(page, "Click a patch")
    shown(page, FIRST)  # the example that the page opens with
    photo = page.locator("#patches-photo")
    photo.get_by_label("Clear").or_(photo.get_by_label("Remove Image")).first.click()
    page.locator(f"#{FIRST} img").wait_for(state="detached")


def only_heat(page):
    """Show the heat map without photo and frames of matches, so that its colours can be read."""
    page.locator("#patches-settings button").first.click()
    page.locator("#patches-opacity").wait_for()
    move(page, "patches-opacity", 1)
    move(page, "patches-matches", 0)
    page.locator("#patches-step", has_text="No matches").wait_for()  # a shorter text: all moves up


def in_frame(page, where, row, column):
    """Where on the page the middle of a patch is: pictures are centred and never enlarged."""
    picture = page.locator(f"#{where} img")
    page.wait_for_function(LOADED, arg=picture.element_handle())
    page.evaluate(STILL)  # after an upload a phone goes to the result
    place = picture.evaluate(PLACE)
    scale = min(place["width"] / place["columns"], place["height"] / place["rows"], 1)
    patch = PATCH * (min(place["rows"], place["columns"]) // SIZE)
    left = place["left"] + (place["width"] - scale * place["columns"]) / 2
    top = place["top"] + (place["height"] - scale * place["rows"]) / 2
    x, y = left + (column + 0.5) * patch * scale, top + (row + 0.5) * patch * scale
    return x, y - page.evaluate(SCROLLED, y)


def brightest(picture):
    """Row and column of the brightest patch, by the middle of each, which nothing blurs."""
    patch = PATCH * (min(picture.shape[:2]) // SIZE)
    rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
    light = picture.sum(axis=-1).reshape(rows, patch, columns, patch)
    edge = patch // 2 - 1
    light = light[:, edge : patch - edge, :, edge : patch - edge].mean(axis=(1, 3))
    return tuple(int(i) for i in np.unravel_index(light.argmax(), light.shape))


def click_patch(page, row, column, *, where=FIRST, touch=False):
    """Click the middle of a patch and wait for the heat map."""
    before = source(page, where)
    x, y = in_frame(page, where, row, column)
    if touch:
        page.touchscreen.tap(x, y)
    else:
        page.mouse.click(x, y)
    page.get_by_text("Now click anything").wait_for(state="detached")
    return shown(page, where, after=before)


@pytest.mark.parametrize("kind", PHOTOS)
def test_the_heat_is_highest_where_the_click_was(page, tmp_path, kind):
    open_tab(page)
    upload(page, "patches-photo", save(kind, tmp_path))
    shown(page, FIRST)
    page.get_by_text("Now click anything").wait_for()
    only_heat(page)
    for row, column in MARKS:
        click_patch(page, row, column)
        shown_when(page, FIRST, lambda heat, at=(row, column): brightest(heat) == at)


def test_of_two_clicks_in_haste_the_last_one_counts(page, tmp_path):
    open_tab(page)
    upload(page, "patches-photo", save("landscape", tmp_path))
    shown(page, FIRST)
    only_heat(page)
    click_patch(page, 5, 5)  # from now on the text above the picture has the same lines
    x, y = in_frame(page, FIRST, 20, 29)
    page.mouse.click(x - 100, y)
    page.mouse.click(x, y)
    shown_when(page, FIRST, lambda heat: brightest(heat) == (20, 29))


def test_beside_the_picture_a_click_means_nothing(page, tmp_path):
    open_tab(page)
    upload(page, "patches-photo", save("tall", tmp_path))
    shown(page, FIRST)
    frame = page.locator(f"#{FIRST}").bounding_box()
    before = source(page, FIRST)
    page.mouse.click(frame["x"] + 12, frame["y"] + frame["height"] / 2)
    click_patch(page, 3, 3)  # whatever the first click did is done when this one is answered
    assert before != source(page, FIRST)
    page.get_by_text("Best matches in the first").wait_for()


def test_either_of_two_photos_can_ask_the_other(page, tmp_path, cat):
    open_tab(page)
    assert not page.locator(f"#{SECOND}").is_visible()
    upload(page, "patches-photo", cat)
    shown(page, FIRST)
    upload(page, "patches-second", save("landscape", tmp_path))
    plain = shown(page, SECOND)
    only_heat(page)
    click_patch(page, 10, 12)
    page.locator("#patches-step", has_text="in the second picture").wait_for()
    shown_when(page, SECOND, lambda heat: difference(plain, heat) > SAME)
    click_patch(page, 20, 29, where=SECOND)
    shown_when(page, SECOND, lambda heat: brightest(heat) == (20, 29))


def test_on_a_phone_a_tap_is_a_click(phone, tmp_path):
    open_tab(phone)
    upload(phone, "patches-photo", save("landscape", tmp_path))
    shown(phone, FIRST)
    only_heat(phone)
    click_patch(phone, 20, 29, touch=True)
    shown_when(phone, FIRST, lambda heat: brightest(heat) == (20, 29))
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_bad_upload_is_explained_and_the_tab_goes_on(page, tmp_path, cat):
    open_tab(page)
    (tmp_path / "notes.png").write_bytes(b"Dear diary")
    upload(page, "patches-photo", tmp_path / "notes.png")
    dismiss(page, "cannot be used here")
    upload(page, "patches-photo", cat)
    assert shown(page, FIRST).shape[1] > 700


def test_another_network_keeps_the_click_and_a_convnet_says_why_not(page, cat):
    open_tab(page)
    upload(page, "patches-photo", cat)
    shown(page, FIRST)
    heat = click_patch(page, 10, 12)
    before = source(page, FIRST)
    choose(page, "picker", "late.safetensors")
    assert difference(heat, shown(page, FIRST, after=before)) > 1
    page.get_by_text("Best matches in the first").wait_for()
    choose(page, "picker", "convnet.safetensors")
    page.get_by_text("This network has no patches to compare.").wait_for()
    assert not page.locator(f"#{FIRST}").is_visible()
