"""--help of every command, verb and recipe: phrases that say something, short and within bounds."""

import importlib
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from typing import NamedTuple

import pytest

from dino_app.cli.index import VERBS
from dino_infer.cli.eval import VERBS as EVAL_VERBS
from dino_train.recipes import RECIPES

PAGES = {
    "dino-embed": ("dino_infer.cli.embed", []),
    "dino-embed --plan": ("dino_infer.cli.embed", ["--plan"]),
    "dino-attention": ("dino_infer.cli.attention", []),
    "dino-eval": ("dino_infer.cli.eval", []),
    **{f"dino-eval {verb}": ("dino_infer.cli.eval", [verb]) for verb in EVAL_VERBS},
    "dino-export": ("dino_export.cli", []),
    "dino-export info": ("dino_export.cli", ["info"]),
    "dino-index": ("dino_app.cli.index", []),
    **{f"dino-index {verb}": ("dino_app.cli.index", [verb]) for verb in VERBS},
    "dino-serve": ("dino_app.cli.serve", []),
    "dino-demo": ("dino_app.cli.demo", []),
    "dino-train": ("dino_train.cli", []),
    **{f"dino-train {name}": ("dino_train.cli", [name]) for name in ("auto", *RECIPES)},
    "dino-train --plan": ("dino_train.cli", ["--plan"]),
}
COLUMNS = 100
MOST_LINES = 3
# A text that begins so is a fragment: "Of the draws.", "Whether to train.", "0 takes a free one."
FRAGMENTS = re.compile(
    r"(Of|What|Whether|Which|How|Where|When|Who|By|After|As|Likewise|Also|It|This|That|And|For)\b"
    r"|[^A-Z\[.]"
)


class Text(NamedTuple):
    """The help text of one flag or box."""

    owner: str
    lines: list[str]

    @property
    def words(self) -> str:
        return " ".join(line.strip() for line in self.lines)


@cache
def page(name: str) -> str:
    module, arguments = PAGES[name]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(_utf8()) as shown:
        patch.setenv("COLUMNS", str(COLUMNS))
        assert importlib.import_module(module).main([*arguments, "--help"]) == 0
    shown.seek(0)
    return shown.read()


def _utf8() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8")


def texts(name: str) -> Iterator[Text]:
    """The texts in the boxes of a page, each with the flag that it is about."""
    boxes = re.findall(r"^╭.*?^╰", page(name), flags=re.MULTILINE | re.DOTALL)
    for box in boxes:
        rows = [row[2:-2] for row in box.splitlines()[1:-1]]
        if any(row.startswith("─") for row in rows):  # below it the flags, above what they are
            above = next(i for i, row in enumerate(rows) if row.startswith("─"))
            yield Text(box.splitlines()[0], rows[:above])
            rows = rows[above + 1 :]
        texts: list[Text] = []
        for row in rows:
            flag, text = re.fullmatch(r"(?:  • )?(\S.*?)?(?:  +(\S.*?)?)?\s*", row).groups()
            if flag and flag != "(required)":  # of the verb itself
                texts.append(Text(flag, []))
            if text:
                texts[-1].lines.append(text)
        yield from texts


@pytest.mark.parametrize("name", PAGES)
def test_every_help_text_begins_with_a_verb_or_a_noun(name: str):
    found = list(texts(name))
    assert found
    fragments = [
        f"{text.owner}: {text.words}"
        for text in found
        if "show this help" not in text.words and FRAGMENTS.match(text.words)
    ]
    assert not fragments, "\n".join(fragments)


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_has_a_help_text(name: str):
    assert [text.owner for text in texts(name) if not text.words] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_help_text_is_longer_than_three_lines(name: str):
    long = [text.words for text in texts(name) if len(text.lines) > MOST_LINES]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("name", PAGES)
def test_no_line_of_a_help_page_is_wider_than_the_terminal(name: str):
    assert [line for line in page(name).splitlines() if len(line) > COLUMNS] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_help_page_shows_how_a_flag_that_is_not_given_is_stored(name: str):
    assert not re.search(r"None\}|\{None|default: None|default: False|default: \)", page(name))
