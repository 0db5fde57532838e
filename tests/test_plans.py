"""docs/scale.md shows what the plans print."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"^```sh\n(.*?)^```\n\n```text\n(.*?)^```$", PAGE, re.M | re.S)
MAINS = {
    "dino-index": "dino_app.cli.index",
    "dino-embed": "dino_infer.cli.embed",
    "dino-train": "dino_train.cli",
}


def test_every_command_of_the_page_is_followed_by_its_plan():
    assert len(SHOWN) == PAGE.count("```sh") >= 8


@pytest.mark.parametrize(("command", "printed"), SHOWN)
def test_the_page_shows_what_a_plan_prints(command, printed, capsys):
    program, *arguments = shlex.split(command.replace("\\\n", " "))
    assert import_module(MAINS[program]).main(arguments) == 0
    assert capsys.readouterr().out == printed
