"""Paint and Track, used as a person uses them; and the demo called from a program."""

import re
import zipfile
from pathlib import Path

from tests.browser.driving import difference, move, shown, source, upload
from tests.browser.indexed import open_tab
from tests.browser.test_video import clip

__all__ = ["clip"]  # a fixture

ROOT = Path(__file__).parents[2]
OTHER = 4.5  # levels: another picture


def paint(page, field):
    """One stroke through the middle of the picture."""
    canvas = page.locator(f"#{field} canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 10, steps=4)
    page.mouse.up()


def test_a_stroke_on_one_photo_masks_the_others_and_masks_are_saved(page, cat, coffee):
    open_tab(page, "Paint")
    photos = [str(cat), str(coffee)]
    page.locator("#paint-photos input[type=file]").first.set_input_files(photos)
    before = [shown(page, "paint-gallery", number) for number in range(2)]
    page.get_by_text("Now paint on the photo.").wait_for()
    address = source(page, "paint-gallery", 1)
    page.wait_for_timeout(500)  # the canvas draws its picture
    paint(page, "paint-field")
    after = shown(page, "paint-gallery", 1, after=address)
    assert difference(before[1], after) > OTHER
    page.get_by_text("Painted on 1 of 2 photos").wait_for()
    with page.expect_download() as saving:
        page.locator("#paint-save").click()
    with zipfile.ZipFile(saving.value.path()) as archive:
        assert archive.namelist() == ["001-cat.png", "002-coffee.png", "masks.json"]


def test_what_is_painted_on_the_first_frame_is_followed(page, clip):
    open_tab(page, "Track")
    upload(page, "track-clip", clip)
    page.locator("#track-clip video").wait_for()
    move(page, "track-frames", 8)
    page.wait_for_timeout(2000)  # the first frame comes into the field
    paint(page, "track-field")
    page.wait_for_timeout(1500)
    page.locator("#track-start").click()
    page.get_by_text("8 frames, 2.0 seconds.").wait_for()
    assert page.locator("#track-result video").first.evaluate("e => e.currentSrc || e.src")


def test_a_program_calls_the_demo_by_named_parameters(demo_url, coffee):
    block = re.search(r"```py\n(.*?)```", (ROOT / "docs" / "demo.md").read_text(), re.S)[1]
    for printed, here in (
        ("http://127.0.0.1:7860", demo_url),
        ("photo.jpg", str(coffee)),
        ("checkpoint.safetensors", "early.safetensors"),
    ):
        assert printed in block
        block = block.replace(printed, here)
    names = {}
    exec(compile(block, "docs/demo.md", "exec"), names)
    assert "MaskCut finds" in names["told"] and names["picture"]
    *_, heads, told = names["client"].predict(
        names["handle_file"](str(coffee)), "early.safetensors", mass=30, api_name="/attention"
    )
    assert "Mean: 30%" in told and len(heads) == 7
    named = names["client"].view_api(return_format="dict")["named_endpoints"]
    for name, endpoint in named.items():
        told = [one["parameter_name"] for one in endpoint["parameters"]]
        assert not [one for one in told if one.startswith("param_")], name
