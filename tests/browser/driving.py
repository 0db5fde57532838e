"""What a person does and sees on a page of the demo."""

import base64
import io

import numpy as np
from PIL import Image

# A picture's pixels as the page has them: Gradio may write a file of the same content once more, so
# that who asks for it then gets a part.
_PIXELS = """([where, number, before]) => {
  const picture = document.querySelectorAll(`${where} img`)[number];
  if (!picture || picture.src === before || !picture.complete || !picture.naturalWidth) return null;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.toDataURL();
}"""


def upload(page, field, path):
    """Choose a file in an upload field."""
    page.locator(f"#{field} input[type=file]").first.set_input_files(str(path))


def source(page, where, number=0):
    """The address of a picture that is there, or None."""
    pictures = page.locator(f"#{where} img")
    return pictures.nth(number).get_attribute("src") if pictures.count() > number else None


def shown(page, where, number=0, *, after=None):
    """A picture as an array, once it is another one than that of the address ``after``."""
    found = page.wait_for_function(_PIXELS, arg=[f"#{where}", number, after]).json_value()
    content = base64.b64decode(found.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.int16)


def shown_when(page, where, holds, number=0):
    """A picture as an array, once it is one of which ``holds``; what comes before is on its way."""
    while True:
        address = source(page, where, number)
        picture = shown(page, where, number)
        if holds(picture):
            return picture
        page.wait_for_function(_PIXELS, arg=[f"#{where}", number, address])


def move(page, slider, value):
    """Drag a slider to a value."""
    page.locator(f"#{slider} input[type=range]").fill(str(value))


def type_number(page, slider, value):
    """Type a value into the box of a slider and leave it."""
    box = page.locator(f"#{slider} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def choose(page, dropdown, option):
    """Choose from a drop-down list."""
    page.locator(f"#{dropdown} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def dismiss(page, text):
    """Wait for a message with this text and close it."""
    toast = page.get_by_test_id("toast-body").filter(has_text=text).first
    toast.wait_for()
    toast.get_by_test_id("toast-close").click()
    toast.wait_for(state="detached")


def difference(one, other):
    """Mean difference of two pictures in levels, at the size of the first."""
    image = Image.fromarray(other.astype(np.uint8)).resize(one.shape[1::-1])
    return float(np.abs(one - np.asarray(image).astype(np.int16)).mean())
