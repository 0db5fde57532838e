"""The attention tab, used as a person uses it."""

import base64
import io

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
    type_number,
    upload,
)  # fmt: skip

SAME, OTHER = 4, 4.5  # levels: JPEG and another resampling stay below, another picture is above
COPY = """async (address) => {
  const picture = await (await fetch(address)).blob();
  await navigator.clipboard.write([new ClipboardItem({"image/png": picture})]);
}"""
PICTURES = "attention-slider"  # the original, then the overlay
NAMES = ["Mean", "Maximum", "Head 1", "Head 2", "Head 3", "Head 4", "All heads"]


def open_photo(page, path):
    upload(page, "attention-picture", path)
    return shown(page, PICTURES, 0), shown(page, PICTURES, 1)


def captions(page):
    return page.locator("#attention-gallery .caption-label").all_inner_texts()


def test_a_photo_is_shown_with_what_each_head_looks_at(page, cat):
    assert page.get_by_text("Nothing chosen yet").first.is_visible()
    original, overlay = open_photo(page, cat)
    assert original.shape == (480, 722, 3)
    photo = np.asarray(Image.open(cat)).astype(np.int16)
    assert difference(original, photo) < SAME < OTHER < difference(original, overlay)
    assert captions(page) == NAMES
    assert "Mean: 60% of its attention is on" in page.locator("#attention-text").inner_text()
    assert not page.get_by_text("Nothing chosen yet").first.is_visible()


def test_the_line_between_original_and_overlay_can_be_dragged(page, cat):
    open_photo(page, cat)
    picture = page.locator(f"#{PICTURES} img").first
    before = looks(picture)
    box = picture.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.5 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], middle, steps=5)
    page.mouse.up()
    change = np.abs(looks(picture) - before).mean(axis=(0, 2))
    places = np.linspace(0, 1, len(change))
    assert change[places < 0.2].mean() < 1 and change[places > 0.55].mean() < 1
    assert change[(places > 0.3) & (places < 0.45)].mean() > OTHER


def looks(element):
    """What a part of the page looks like."""
    picture = Image.open(io.BytesIO(element.screenshot())).convert("RGB")
    return np.asarray(picture).astype(np.int16)


def test_the_sliders_repaint_the_overlay_and_leave_the_original(page, cat):
    before, overlay = open_photo(page, cat)
    page.locator("#attention-style").get_by_text("Mask", exact=True).click()
    mask = shown_when(page, PICTURES, lambda now: difference(overlay, now) > OTHER, 1)
    move(page, "attention-mass", 20)
    smaller = shown_when(page, PICTURES, lambda now: difference(mask, now) > OTHER, 1)
    assert tinted(smaller) < tinted(mask)
    page.get_by_text("Mean: 20% of its attention").wait_for()
    move(page, "attention-opacity", 0)
    shown_when(page, PICTURES, lambda now: tinted(now) < tinted(smaller), 1)
    assert np.array_equal(shown(page, PICTURES, 0), before)


def tinted(picture):
    """Share of the picture in the orange of masks."""
    return ((picture[..., 0] - picture[..., 2]) > 60).mean()


def test_more_settings_change_the_map(page, cat):
    _, overlay = open_photo(page, cat)
    page.get_by_text("More settings").click()
    for change in (
        lambda: choose(page, "attention-colormap", "viridis"),
        lambda: choose(page, "attention-head", "Head 3"),
        lambda: move(page, "attention-layer", 2),
        lambda: page.get_by_label("Boxes around the marked parts").check(),
        lambda: type_number(page, "attention-size", 160),
    ):
        address = source(page, PICTURES, 1)
        change()
        changed = shown(page, PICTURES, 1, after=address)
        assert difference(overlay, changed) > 0.5
        overlay = changed
    assert "Head 3:" in page.locator("#attention-text").inner_text()


def test_picture_and_numbers_can_be_saved(page, cat):
    _, overlay = open_photo(page, cat)
    with page.expect_download() as saving:
        page.locator("#attention-png").click()
    with Image.open(saving.value.path()) as picture:
        assert picture.format == "PNG"
        assert difference(overlay, np.asarray(picture).astype(np.int16)) < SAME
    with page.expect_download() as saving:
        page.locator("#attention-npz").click()
    assert saving.value.suggested_filename == "dino-attention.npz"
    with np.load(io.BytesIO(saving.value.path().read_bytes())) as arrays:
        heads, rows, columns = arrays["attention"].shape
        assert (heads, rows, columns) == (4, 32, 48) and arrays["masks"].shape == (4, 32, 48)
        assert arrays["boxes"][:, :4].max() <= 451


def test_on_a_phone_an_example_and_a_head_are_a_tap_away(phone):
    phone.locator("#attention-picture-examples button").first.click()
    overlay = shown(phone, PICTURES, 1)
    phone.locator("#attention-gallery button").nth(3).click()
    shown_when(phone, PICTURES, lambda head: difference(overlay, head) > OTHER, 1)
    phone.get_by_text("Head 2: 60% of its attention").wait_for()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


CAMERA_RUNS = """() => {
  const video = document.querySelector("#attention-picture video");
  return video && video.readyState >= 2 && video.videoWidth > 0 && video.currentTime > 0.2;
}"""


def test_a_picture_can_be_pasted_or_photographed(opened, demo_url, cat):
    page = opened(demo_url, permissions=["clipboard-read", "clipboard-write", "camera"])
    data = base64.b64encode(cat.read_bytes()).decode()
    page.evaluate(COPY, f"data:image/png;base64,{data}")
    field = page.locator("#attention-picture")
    field.get_by_label("Paste from clipboard").click()
    pasted = shown(page, PICTURES, 0)
    assert difference(pasted, np.asarray(Image.open(cat)).astype(np.int16)) < SAME
    field.get_by_label("Capture from camera").click()
    field.get_by_text("Click to Access Webcam").click()
    page.wait_for_function(CAMERA_RUNS)  # before that a photo would be empty
    field.get_by_label("capture photo").click()
    shown_when(page, PICTURES, lambda taken: difference(pasted, taken) > OTHER)


@pytest.fixture
def bad_uploads(tmp_path, coffee):
    """Files and what the page says of them."""
    whole = coffee.read_bytes()
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, format="PNG")
    contents = {
        "cut.jpg": (whole[: len(whole) // 2], "This file is damaged."),
        "bomb.png": (bomb.getvalue(), "This is too large for the demo."),
        "notes.png": (b"Dear diary, today", "This kind of file cannot be used here."),
        "empty.png": (b"", "The file is empty."),
        "heavy.jpg": (whole + bytes(3_000_000), "maximum allowed size"),
    }
    for name, (data, _) in contents.items():
        (tmp_path / name).write_bytes(data)
    return {tmp_path / name: said for name, (_, said) in contents.items()}


def test_bad_uploads_are_explained_and_the_page_goes_on(page, cat, bad_uploads):
    for path, said in bad_uploads.items():
        upload(page, "attention-picture", path)
        dismiss(page, said)
        remove = page.locator("#attention-picture").get_by_label("Clear")
        if remove.count():
            remove.first.click()
    original, _ = open_photo(page, cat)
    assert original.shape == (480, 722, 3)


def test_a_network_without_attention_says_so_and_another_one_takes_over(page, cat):
    first = open_photo(page, cat)[1]
    choose(page, "picker", "convnet.safetensors")
    page.get_by_text("This network has no attention maps.").first.wait_for()
    assert not page.locator("#attention-slider").is_visible()
    choose(page, "picker", "late.safetensors")
    page.locator("#attention-slider").wait_for()
    page.wait_for_function("document.querySelectorAll('#attention-gallery img').length === 6")
    assert captions(page) == [*NAMES[:5], "All heads"]
    assert difference(first, shown(page, PICTURES, 1)) > OTHER
