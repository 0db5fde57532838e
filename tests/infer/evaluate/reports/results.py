"""Results made by hand."""

from PIL import Image

from dino_infer.evaluate.reports.result import Figures, Result, Table


def result(protocol="knn", *, top1=60.0, spread=2.0, **changes):
    figures = [
        Figures(
            of="model", values={"top1_percent": top1, "rank": 7.5}, spreads={"top1_percent": spread}
        ),
        Figures(of="raw pixels", values={"top1_percent": 30.0}),
    ]  # fmt: skip
    given = {
        "protocol": protocol,
        "headline": "top1_percent",
        "figures": figures,
        "settings": {"seed": 0},
        "data": {"train": {"source": "/data/<train>", "images": 12}},
        "images": 12,
        "tables": {"classes": Table(["class", "images"], [["<cat>", 6], ["dog", 6]])},
        "pictures": {"sheet": Image.new("RGB", (2000, 10))},
    }
    return Result(**(given | changes))
