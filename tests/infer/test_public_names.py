"""The package is light to import, and every public name is there."""

import subprocess
import sys
from pathlib import Path

import pytest

import dino_infer

ROOT = Path(__file__).parents[2]


def test_public_names_are_sorted_and_complete():
    assert dino_infer.__all__ == sorted(dino_infer.__all__)
    assert sorted(dino_infer._MODULES) == dino_infer.__all__


@pytest.mark.parametrize("name", dino_infer.__all__)
def test_a_public_name_is_the_thing_it_names(name):
    assert getattr(dino_infer, name).__name__ == name
    assert name in dir(dino_infer)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'dino_infer' has no attribute 'Embeder'"):
        dino_infer.Embeder  # noqa: B018


@pytest.mark.parametrize(
    "module",
    ["dino_infer", "dino_infer.cli.embed", "dino_infer.cli.attention", "dino_infer.cli.eval"],
)
def test_importing_pulls_in_nothing_heavy(module):
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'timm', 'faiss', 'matplotlib', 'PIL', 'numpy', 'pyarrow', 'sklearn'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
