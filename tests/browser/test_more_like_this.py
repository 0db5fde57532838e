"""The example page over the API: what a visitor does, with keys and without, wide and narrow."""

from contextlib import closing
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from starlette.staticfiles import StaticFiles

from dino_app.server.app import create_app
from dino_app.server.auth import Keys
from dino_app.store.interface import Item
from dino_app.store.opening import open_store
from dino_infer.embedding.embedder import Embedder
from tests.app.cli.test_serve import running
from tests.app.demo.indexed import small_index
from tests.app.server.conftest import KEY, served
from tests.browser.conftest import PHONE
from tests.browser.indexed import HOSTILE

SITE = Path(__file__).parents[2] / "examples" / "more_like_this"
LAPTOP = {"width": 1280, "height": 800}
SHOWN = "() => [...document.images].every((one) => one.naturalWidth || one.alt === '(no picture)')"
DRAWN = "() => [...document.images].filter((one) => one.naturalWidth).length"


@pytest.fixture(scope="module")
def index(weights_folder, tmp_path_factory):
    """The index of the demo: twelve photos, the last without a picture, and a hostile name."""
    path = tmp_path_factory.mktemp("site") / "photos.index"
    store = small_index(path, Embedder.load(weights_folder / "early.safetensors", device="cpu"))
    store.upsert([Item(id=HOSTILE, vector=store.get(["cat/0.jpg"])[0].vector)])
    store.close()
    return path


@pytest.fixture(scope="module")
def url(index, weights_folder):
    weights = str(weights_folder / "early.safetensors")
    flags = ("--weights", weights, "--site", str(SITE), "--read-only", "--no-access-log")
    with running(str(index), *flags, env={"OMP_NUM_THREADS": "1"}) as child:
        yield child.url


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_a_visitor_finds_more_photos_like_one(browser, url, coffee, size, dark):
    page = browser.new_page(viewport=size, color_scheme="dark" if dark else "light")
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    photos, status = page.locator("#photos button"), page.get_by_role("status")
    expect(photos).to_have_count(12)
    page.get_by_role("button", name="cat/1.jpg").click()
    expect(status).to_have_text("Photos like cat/1.jpg, nearest first.")
    scores = [float(text.rpartition("· ")[2]) for text in photos.all_inner_texts()]
    assert len(scores) == 12 and scores == sorted(scores, reverse=True)
    assert page.get_by_role("button", name="cat/1.jpg").count() == 0
    assert page.get_by_role("button", name=HOSTILE).count() == 1

    page.get_by_label("Photo").set_input_files(coffee)
    expect(status).to_have_text("Photos like coffee.jpg, nearest first.")
    page.wait_for_function(SHOWN)
    assert page.evaluate(DRAWN) >= 10  # two of the thirteen have no picture
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []

    page.get_by_label("Photo").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"}
    )
    expect(status).to_contain_text("image")
    expect(photos).to_have_count(12)
    assert errors == []
    page.close()


def test_a_server_with_keys_asks_the_visitor_for_one(browser, index, weights_folder):
    embedder = Embedder.load(weights_folder / "early.safetensors", device="cpu")
    with closing(open_store(index, writable=False)) as store:
        app = create_app(embedder, store, keys=Keys([KEY]))
        app.mount("/", StaticFiles(directory=SITE, html=True))
        with served(app) as server:
            login = {"username": "anyone", "password": KEY}
            context = browser.new_context(http_credentials=login)
            page, asked = context.new_page(), []
            page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept(KEY)))
            page.goto(str(server.base_url))
            expect(page.locator("#photos button")).to_have_count(12)
            page.wait_for_function(SHOWN)
            assert page.evaluate(DRAWN) >= 10
            assert asked == ["API key of this server"]
            context.close()
