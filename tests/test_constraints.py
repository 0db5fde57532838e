"""The pinned versions: one set with hashes and without, and nothing that only one machine has."""

import re
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
UNPINNED = {"dino-toolkit", "onnxruntime-gpu", "wandb"}  # itself, and what no test installs
HASHES = r"(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
HASHED_PIN = re.compile(r"^([\w.-]+==\S+)(?: ; [^\\\n]+)? \\\n" + HASHES, re.MULTILINE)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_dependency_is_pinned_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    for dependency in map(Requirement, [*project["dependencies"], *chain(*extras)]):
        name = canonicalize_name(dependency.name)
        if name not in UNPINNED:
            assert dependency.specifier.contains(pins()[name]), f"{dependency}, not {pins()[name]}"


def test_the_hashed_constraints_are_those_of_constraints_txt():
    text = (ROOT / "constraints-hashed.txt").read_text()
    hashed = dict(pin.split("==") for pin in HASHED_PIN.findall(text))
    assert hashed.items() >= pins().items(), "run `make lock`"
    assert HASHED_PIN.sub("", text).count("\n") == 2, "something else than its header and pins"
