"""The demo in Chromium: seconds to the first attention map, and to new masks after a slider moved.

    python benchmarks/demo_speed.py --rounds 3

ViT-S/16 with random weights at the demo's 480 pixels. Photographs that come with scikit-image take
turns, each cut a little differently in every round, so that nothing is remembered of them. A time
ends when the browser has the new picture.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from serve_load import random_weights, started

PHOTOS = ("chelsea", "coffee", "astronaut")
SHARES = (20, 30, 40, 50, 70, 80, 45, 55, 25, 35)  # percent, as the slider goes
MOVED = """async (value) => {
  const overlay = () => document.querySelectorAll("#attention-slider img")[1];
  const slider = document.querySelector("#attention-mass input[type=range]");
  const before = overlay().src, start = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event("input", {bubbles: true}));
  while (overlay().src === before || !overlay().complete || !overlay().naturalWidth)
    await new Promise(requestAnimationFrame);
  return performance.now() - start;
}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    chromium = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        weights = random_weights(Path(folder), "vit_small", 224)
        with started("demo", "--weights", str(weights), "--device", "cpu") as (host, port):
            browser = playwright.chromium.launch(executable_path=chromium, args=flags)
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.goto(f"http://{host}:{port}")
            page.get_by_role("tab", name="Attention").click()
            measure(page, Path(folder), options.rounds)
            browser.close()
    return 0


def measure(page: Any, folder: Path, rounds: int) -> None:
    """First maps, then the slider in each style."""
    first = [first_map(page, path) for path in photos(folder, rounds)]
    print(f"first map ever: {first[0]:.2f} s")
    print(f"first map of another photograph, warm, s: {summary(first[1:], 2)}", flush=True)
    for style in ("Heat map", "Mask", "All heads"):
        page.locator("#attention-style").get_by_text(style, exact=True).click()
        page.wait_for_timeout(2000)
        times = [page.evaluate(MOVED, str(v)) for _ in range(rounds) for v in SHARES]
        print(f"slider to new picture, {style!r}, ms: {summary(times, 0)}", flush=True)


def photos(folder: Path, rounds: int) -> Iterator[Path]:
    """Pictures that the demo has not seen, each on the disk while it is needed."""
    from PIL import Image
    from skimage import data

    for number in range(rounds):
        for name in PHOTOS:
            picture = Image.fromarray(getattr(data, name)())
            path = folder / f"{name}-{number}.png"
            picture.crop((number, number, *picture.size)).save(path)
            yield path


def first_map(page: Any, path: Path) -> float:
    """Seconds from choosing a file to its map."""
    field = page.locator("#attention-picture")
    if field.get_by_label("Clear").or_(field.get_by_label("Remove Image")).count():
        field.get_by_label("Clear").or_(field.get_by_label("Remove Image")).first.click()
        page.locator("#attention-slider").wait_for(state="hidden")
    start = time.perf_counter()
    field.locator("input[type=file]").first.set_input_files(str(path))
    page.locator("#attention-slider img").nth(1).wait_for()
    seconds = time.perf_counter() - start
    page.wait_for_timeout(1000)
    return seconds


def summary(times: Sequence[float], digits: int) -> str:
    """Median, lowest and highest."""
    middle, low, high = statistics.median(times), min(times), max(times)
    return f"{middle:.{digits}f} ({low:.{digits}f} - {high:.{digits}f}), {len(times)} times"


if __name__ == "__main__":
    sys.exit(main())
