"""Take the README's pictures of the demo: python docs/screenshots.py RUN --out docs/pictures.

RUN is a run folder, say that of the quick start. Needs Chromium (Debian: apt-get install chromium).
Only photos that may be published are shown; the page credits them.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

START = "import sys; from dino_app.cli.demo import main; sys.exit(main())"
DESKTOP, PHONE = {"width": 1120, "height": 760}, {"width": 390, "height": 760}
WAIT_MS = 180_000
QUALITY, MAX_BYTES = 72, 300_000  # of all pictures together
SETTLE_MS = 1500  # animations of the page
STROKE, STROKES = 40, (-30, -5, 20, 45)  # pixels on the page, from the middle of the flower


def main() -> int:
    """Write the pictures and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="weights of the network to show")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with demo(options.run) as address:
        pictures = screenshots(address)
    total = 0
    for name, png in pictures.items():
        path = options.out / f"{name}.webp"
        Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=QUALITY, method=6)
        total += path.stat().st_size
        sys.stdout.write(f"{path}: {path.stat().st_size / 1e3:.0f} kB\n")
    if total > MAX_BYTES:
        sys.exit(f"error: {total} bytes are more than the {MAX_BYTES} that a clone should carry")
    return 0


@contextmanager
def demo(weights: str) -> Iterator[str]:
    """The address of a demo that runs until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, "--weights", weights, "--port", "0"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None  # it was asked for
        for line in process.stderr:
            if found := re.search(r"open (http://\S+)", line):
                yield found[1]
                return
        sys.exit("error: the demo did not start")
    finally:
        process.terminate()
        process.wait()


def screenshots(address: str) -> dict[str, bytes]:
    """PNGs by name."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or sys.exit("error: Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])

        def opened(size: dict[str, int], colors: str) -> Any:
            context = browser.new_context(viewport=size, color_scheme=colors)
            context.set_default_timeout(WAIT_MS)
            page = context.new_page()
            page.goto(address)
            page.get_by_role("tab", name="Attention").click()
            return page

        taken = {
            "demo-compare": compare(opened(DESKTOP, "light"), example=2),
            "demo-paint": paint(opened(DESKTOP, "light")),
            "demo-phone": objects(opened(PHONE, "dark"), example=5),
        }
        browser.close()
    return taken


def objects(page: Any, *, example: int) -> bytes:
    """The objects tab with several objects in an example."""
    page.get_by_role("tab", name="Objects").click()
    examples(page, "objects-picture").nth(example).click()
    page.locator("#objects-shown img").wait_for()
    return settled(page, page.locator("#objects-result"))


def paint(page: Any) -> bytes:
    """The paint tab after the flower was painted with a few strokes."""
    page.get_by_role("tab", name="Paint").click()
    page.get_by_role("button", name="Try it with the example photos").locator(
        "visible=true"
    ).click()
    page.locator("#paint-gallery img").nth(5).wait_for()
    page.locator("#paint-gallery button.thumbnail-item").nth(5).click()
    page.wait_for_timeout(2 * SETTLE_MS)
    canvas = page.locator("#paint-field canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for height in STROKES:
        page.mouse.move(x - STROKE, y + height)
        page.mouse.down()
        page.mouse.move(x + STROKE, y + height, steps=6)
        page.mouse.up()
        page.wait_for_timeout(SETTLE_MS)  # a stroke that changes no mask leaves the same pictures
    return settled(page, page.locator("#paint-result"))


def compare(page: Any, *, example: int) -> bytes:
    """The compare tab: before training and after."""
    page.get_by_role("tab", name="Compare").click()
    examples(page, "compare-picture").nth(example).click()
    page.locator("#compare-pca-2 img").wait_for()
    return settled(page, page.locator("#tabs"))


def examples(page: Any, field: str) -> Any:
    """The example photos below an upload field."""
    return page.locator(f"#{field}-examples button")


def settled(page: Any, part: Any) -> bytes:
    """What the window shows once nothing moves, with a part of the page at its top on phones."""
    page.wait_for_timeout(SETTLE_MS)
    if page.viewport_size["width"] == PHONE["width"]:
        part.evaluate("e => window.scrollTo(0, e.getBoundingClientRect().top + scrollY - 24)")
        page.wait_for_timeout(SETTLE_MS)
    png: bytes = page.screenshot()
    return png


if __name__ == "__main__":
    sys.exit(main())
