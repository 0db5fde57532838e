"""The report of a run as people see it: wide and narrow, light and dark, and by axe."""

import json

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe

from dino_infer.networks.build import build_backbone
from dino_train.records.report import Report
from dino_train.records.report_page import CURVES
from tests.browser.conftest import DESKTOP, PHONE


@pytest.fixture(scope="module")
def report_url(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    rows = ({"step": i} | dict.fromkeys(CURVES, 1.0 + i) for i in range(3))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture = np.zeros((16, 32, 3), np.uint8)
    report = Report(run, images=torch.zeros(1, 3, 16, 32), pictures=[picture], start_step=0)
    report.update(build_backbone("vit_micro", patch_size=8, image_size=32).eval(), step=3)
    return (run / "report" / "index.html").as_uri()


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_is_read_by_everyone(browser, report_url, size, scheme):
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.goto(report_url)
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert page.locator("figcaption").count() == len(CURVES)
    page.get_by_role("link", name="Is it learning?").click()
    assert page.get_by_role("heading", name="Is it learning?").is_visible()
    page.close()
