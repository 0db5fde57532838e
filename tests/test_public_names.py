"""The packages are light to import, and every public name is there."""

import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import dino_infer

ROOT = Path(__file__).parents[1]
PACKAGES = [
    importlib.import_module(name)
    for name in ("dino_app", "dino_export", "dino_infer", "dino_train")
]
NAMES = [(package, name) for package in PACKAGES for name in package.__all__]


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_sorted_and_the_version_is_that_of_the_distribution(package):
    assert package.__all__ == sorted(package.__all__)
    assert package.__version__ == version("dino-toolkit")


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_a_public_name_is_the_thing_it_names(package, name):
    assert getattr(package, name).__name__.rpartition(".")[2] == name
    assert name in dir(package)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="dino_infer.*Embeder"):
        dino_infer.Embeder  # noqa: B018


@pytest.mark.parametrize(
    "module",
    [
        "dino_infer",
        "dino_infer.cli.embed",
        "dino_infer.cli.attention",
        "dino_infer.cli.eval",
        "dino_infer.evaluate",
        "dino_train",
        "dino_train.cli",
        "dino_export",
        "dino_export.cli",
        "dino_app",
    ],
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
