"""The page of a scorecard: one HTML file that needs no network."""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from dino_infer.evaluate.reports.result import Result, Table, shown, value_of

MAX_PICTURE_PIXELS = 1600  # of the longer side; the report's own PNG has all of them
HASH_DIGITS = 16
MAX_TABLE_ROWS = 40  # the CSV has all
BAR_WIDTH = "min(12rem,22vw)"  # of 100 %

MEANINGS = {
    "knn": "Share of images whose class a vote of their nearest neighbours names. "
    "k = 20 is the figure of the paper.",
    "linear": "Share of images that one linear layer on frozen features classifies right.",
    "logistic": "The same with L2-regularised logistic regression.",
    "few-shot": "Accuracy with few labelled images a class, over several draws.",
    "dense-knn": "Mean IoU of the classes that patches take from their nearest labelled patches.",
    "segmentation": "Overlap (Jaccard index) of [CLS] attention masks with annotated objects.",
    "objects": "Overlap of masks and boxes that are cut from key features without any label.",
    "copy-detection": "How well an edited copy finds its original.",
    "retrieval": "How well images of the same class come first.",
    "revisited": "How well images of the same landmark come first.",
    "video": "Overlap of a mask that is carried through a video (J) and of its outline (F).",
    "health": "Signs of collapse; no label is needed. They tell failure, not quality.",
}

STYLE = """
:root{color-scheme:light dark;--ink:#1c2733;--soft:#5b6b7b;--line:#d9e0e7;--paper:#fff;
--bar:#2f6db3;--floor:#b9c4cf}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa9b8;--line:#33404d;
--paper:#141a21;--bar:#6aa5e3;--floor:#53616f}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:64rem;padding:1.5rem 1rem 4rem;
color:var(--ink);background:var(--paper);overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:0}h2{font-size:1.2rem;margin:2.5rem 0 .25rem}
p{margin:.25rem 0 .75rem}.soft{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .9rem .25rem 0;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}
td .soft{display:block}td .soft,.names td:first-child{white-space:normal}
caption{text-align:left;color:var(--soft)}
@media(max-width:30rem){table{font-size:.875rem}th,td{padding-right:.5rem}}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:500}
.bar{display:inline-block;height:.6rem;background:var(--floor);border-radius:2px;vertical-align:middle}
.scale{text-align:left}.model .bar{background:var(--bar)}.model td{font-weight:600}
img{max-width:100%;height:auto;display:block;margin:.75rem 0;background:#fff;border-radius:4px}
a{color:var(--bar)}details{margin:.5rem 0}summary{cursor:pointer;color:var(--soft)}
"""


def page_of(
    network: Mapping[str, Any],
    results: Sequence[Result],
    skipped: Mapping[str, str],
    broken: Mapping[str, str],
) -> str:
    """The page as text; pictures are in it.

    Args:
        network: Description of the network: ``weights``, ``arch`` and the like.
        results: One a protocol.
        skipped: Why each other protocol was not run.
        broken: Protocols whose data could not be used, with the error.
    """
    weights = html.escape(str(network.get("weights", "")))
    about = [f"{key} {str(value)[:HASH_DIGITS]}" for key, value in network.items()][1:]
    body = [
        f"<h1>Scorecard of {weights}</h1>",
        f"<p class=soft>{html.escape(', '.join(about))}</p>",
        _overview(results),
        *(part for result in results for part in _section(result)),
        *_notes("Not run", skipped),
        *_notes("Failed", broken),
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>Scorecard of {weights}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _overview(results: Sequence[Result]) -> str:
    """A line for each protocol, with its headline beside the best floor."""
    rows = []
    for result in results:
        name = result.headline
        floors = [one for one in result.figures[1:] if name in one.values]
        best = max(floors, key=lambda one: one.values[name], default=None)
        protocol = html.escape(result.protocol)
        cells = (
            (f'<a href="#{protocol}">{protocol}</a>', name.replace("_", " ")),
            (value_of(result.model, name), ""),
            (value_of(best, name), best.of) if best else ("-", ""),
        )
        rows.append(f"<tr>{''.join(_cell(*cell) for cell in cells)}</tr>")
    head = "<tr><th>protocol, figure</th><th>model</th><th>highest floor</th></tr>"
    return f"<div class=wide><table>{head}{''.join(rows)}</table></div>"


def _cell(content: str, below: str) -> str:
    return f"<td>{content}<span class=soft>{html.escape(below)}</span></td>"


def _section(result: Result) -> Iterator[str]:
    name = html.escape(result.protocol)
    yield f'<section><h2 id="{name}">{name}</h2>'
    yield f"<p>{html.escape(MEANINGS.get(result.protocol, ''))}</p>"
    yield _bars(result)
    yield _details("All figures", _figures_table(result))
    for shows, picture in result.pictures.items():
        alt = html.escape(f"{result.protocol}: {shows}")
        yield f'<img alt="{alt}" src="{_inline(picture)}">'
    for holds, table in result.tables.items():
        yield _details(f"{holds}.csv", _table(table))
    yield _details("Data and settings", _list({**result.data, **result.settings}))
    if result.failed or result.excluded:
        lines = [f"{result.failed} of {result.images} images could not be read"] * bool(
            result.failed
        )
        rows = "".join(f"<li>{html.escape(line)}" for line in [*lines, *result.excluded])
        yield _details("Left out", f"<ul>{rows}</ul>")
    yield "</section>"


def _bars(result: Result) -> str:
    """The headline of the model above those of its floors, as bars on one scale."""
    name = result.headline
    known = [one for one in result.figures if name in one.values]
    largest = max((abs(one.values[name]) for one in known), default=0) or 1.0
    full = 100.0 if name.endswith("percent") else largest
    rows = ""
    for one in known:
        kind = " class=model" if one is result.model else ""
        width = f"calc({BAR_WIDTH}*{max(0.0, one.values[name] / full):.4f})"
        rows += (
            f"<tr{kind}><td>{html.escape(one.of)}</td><td>{value_of(one, name)}</td>"
            f'<td class=scale><span class=bar style="width:{width}"></span></td></tr>'
        )
    caption = f"<caption>{html.escape(name.replace('_', ' '))}</caption>"
    return f"<div class=wide><table class=names>{caption}{rows}</table></div>"


def _figures_table(result: Result) -> str:
    names = list(dict.fromkeys(name for one in result.figures for name in one.values))
    rows = [[name, *(value_of(one, name) for one in result.figures)] for name in names]
    return _table(Table(["", *(one.of for one in result.figures)], rows))


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(shown(cell))}</td>' for cell in row)}</tr>"
        for row in table.rows[:MAX_TABLE_ROWS]
    )
    more = len(table.rows) - MAX_TABLE_ROWS
    rest = f"<p class=soft>{more} more rows in the file</p>" if more > 0 else ""
    return f"<div class=wide><table><tr>{head}</tr>{rows}</table></div>{rest}"


def _details(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def by_reason(notes: Mapping[str, str]) -> dict[str, list[str]]:
    """Protocols that have no figures, by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in notes.items():
        reasons.setdefault(why, []).append(name)
    return reasons


def _notes(title: str, notes: Mapping[str, str]) -> Iterator[str]:
    if notes:
        rows = "".join(
            f"<li>{html.escape(', '.join(names))}: {html.escape(why)}"
            for why, names in by_reason(notes).items()
        )
        yield f"<h2>{title}</h2><ul>{rows}</ul>"


def _list(values: Mapping[str, Any]) -> str:
    lines = [
        f"{key}: {', '.join(f'{part} {one}' for part, one in value.items())}"
        if isinstance(value, Mapping)
        else f"{key}: {value}"
        for key, value in values.items()
    ]
    return f"<ul>{''.join(f'<li>{html.escape(line)}' for line in lines)}</ul>"


def _inline(picture: Image.Image) -> str:
    picture = picture.copy()
    picture.thumbnail((MAX_PICTURE_PIXELS, MAX_PICTURE_PIXELS))
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
