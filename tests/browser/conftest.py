"""A real Chromium that watches what pages ask for, and one demo for all tests."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.browser.demo_server import demo_server
from tests.browser.indexed import indexed_url, squares

__all__ = ["indexed_url", "squares"]  # fixtures for all tests here

CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a moving pattern
    "--use-fake-ui-for-media-stream",
)  # fmt: skip
WAIT_MS = 60_000  # a busy machine may need long for what takes a second
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/browser/" in Path(item.path).as_posix():
            item.add_marker("browser")


@dataclass
class Watched:
    """What went wrong in a page while it was used."""

    address: str
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    late_progress: int = 0
    """How often Gradio asked how far an upload was that had ended: the browser logs the answer
    404 with its address, and Gradio logs it once more, without."""
    answers_logged: int = 0

    def attach(self, page):
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)

    def _console(self, message):
        line = f"{message.text} ({message.location.get('url')})"
        if message.type != "error":
            return
        if "/upload_progress" in line:
            self.late_progress += 1
        elif line.startswith("Response ("):
            self.answers_logged += 1
        else:
            self.errors.append(line)

    def _request(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.elsewhere.append(request.url)


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail("browser tests need Chromium; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=[*CHROMIUM_FLAGS])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def weights_folder(tmp_path_factory):
    """Three untrained networks: two Vision Transformers of different shapes, and a convnet."""
    from dino_infer.networks.build import build_backbone
    from dino_infer.weights.checkpoints import save_checkpoint
    from dino_infer.weights.info import CheckpointInfo

    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    for name, arch, options in (
        ("early", "vit_micro", {"patch_size": 8, "image_size": 32}),
        ("late", "vit_tiny", {"patch_size": 16, "image_size": 32}),
        ("convnet", "resnet_micro", {"image_size": 32}),
    ):
        backbone = build_backbone(arch, **options)
        info = CheckpointInfo(arch=arch, patch_size=backbone.patch_size, image_size=32)
        save_checkpoint(folder / f"{name}.safetensors", backbone, info)
    return folder


@pytest.fixture(scope="session")
def demo_url(weights_folder):
    """A demo with the networks ``early``, ``late`` and ``convnet``, without an index."""
    flags = [part for name in ("early", "late", "convnet")
             for part in ("--weights", str(weights_folder / f"{name}.safetensors"))]  # fmt: skip
    with demo_server(*flags, "--max-file-mb", "2") as address:
        yield address


@pytest.fixture
def opened(browser):
    """A function that opens an address in a new page, as wide as asked.

    After the test no page may have logged an error or asked another host for anything.
    """
    contexts, watched = [], []

    def open_page(address, *, size=DESKTOP, dark=False, **options):
        context = browser.new_context(
            viewport=size, color_scheme="dark" if dark else "light", **options
        )
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        watched.append(Watched(address))
        watched[-1].attach(page)
        page.goto(address)
        page.get_by_role("tab", name="Attention").click()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [one.errors for one in watched] == [[] for _ in watched]
    assert [one.elsewhere for one in watched] == [[] for _ in watched]
    assert all(one.answers_logged <= one.late_progress for one in watched)


@pytest.fixture
def page(opened, demo_url):
    """The demo on a desktop."""
    return opened(demo_url)


@pytest.fixture
def phone(opened, demo_url):
    """The demo on a phone held upright, in dark colours."""
    return opened(demo_url, size=PHONE, dark=True, has_touch=True)


@pytest.fixture(scope="session")
def cat(tmp_path_factory):
    """A photograph, 451 x 300 pixels."""
    from skimage import data

    path = tmp_path_factory.mktemp("photos") / "cat.png"
    Image.fromarray(data.chelsea()).save(path)
    return path


@pytest.fixture(scope="session")
def coffee(tmp_path_factory):
    """Another photograph, 600 x 400 pixels."""
    from skimage import data

    path = tmp_path_factory.mktemp("photos") / "coffee.jpg"
    Image.fromarray(data.coffee()).save(path)
    return path
