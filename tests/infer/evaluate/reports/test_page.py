"""The page of a scorecard: it is whole, offline, and shows names as they are."""

import re
from html.parser import HTMLParser

from dino_infer.evaluate.reports.page import page_of
from tests.infer.evaluate.reports.results import result


class Elements(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_page_shows_figures_floors_pictures_and_what_was_left_out():
    results = [result(), result("linear", top1=71.5, excluded=["x.png: <empty>"], failed=1)]
    page = page_of(
        {"weights": "<run>", "arch": "vit"}, results, {"video": "no data"}, {"health": "!"}
    )
    found = Elements(page)
    for words in ("Scorecard of <run>", "60.00 ± 2.00", "71.50 ± 2.00", "raw pixels", "<cat>",
                  "x.png: <empty>", "1 of 12 images could not be read", "video: no data",
                  "health: !"):  # fmt: skip
        assert words in found.text
    pictures = [attrs["src"] for tag, attrs in found.tags if tag == "img"]
    assert len(pictures) == 2 and all(src.startswith("data:image/webp;base64,") for src in pictures)
    links = {attrs["href"] for tag, attrs in found.tags if tag == "a"}
    assert links == {"#knn", "#linear"}
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "iframe"})


def test_bars_are_shares_of_the_whole_for_percentages_and_of_the_largest_otherwise():
    page = page_of({}, [result(), result("health", headline="rank")], {}, {})
    widths = [float(share) for share in re.findall(r"width:calc\(min\([^)]*\)\*([0-9.]+)\)", page)]
    assert widths == [0.6, 0.3, 1.0]


def test_a_long_table_is_cut_with_a_word():
    table = result().tables["classes"]._replace(rows=[["a", 1]] * 50)
    page = Elements(page_of({}, [result(tables={"classes": table})], {}, {}))
    assert "10 more rows in the file" in page.text
