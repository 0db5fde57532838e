"""The notebook of examples/ runs from top to bottom, without a network connection."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from dino_infer.samples import whole_photos
from tests.test_docs import _save_weights

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_look.ipynb"


@pytest.fixture
def examples(tmp_path):
    """A folder beside small stand-ins for what ``make demo`` leaves."""
    _save_weights(tmp_path / "demo" / "run" / "checkpoint.safetensors")
    for photo in whole_photos(tmp_path / "whole", names=("coffee", "rocket")):
        for place in range(4):
            tile = tmp_path / "demo" / "photos" / "val" / photo.stem / f"{place}.png"
            tile.parent.mkdir(parents=True, exist_ok=True)
            Image.open(photo).convert("RGB").crop((60 * place, 90, 60 * place + 60, 150)).save(tile)
    (tmp_path / "examples").mkdir()
    return tmp_path / "examples"


def test_every_cell_of_the_notebook_runs_and_draws(examples, monkeypatch):
    root = NOTEBOOK.parents[1]
    packages = [root, root / "training", root / "export", root / "app"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, packages)))
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(examples)}}).execute()
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    pictures = [one for one in outputs if "image/png" in one.get("data", {})]
    texts = "".join(one.get("text", "") for one in outputs)
    assert len(pictures) == 8 + 2 and "by chance 50%" in texts


def test_the_notebook_is_kept_without_outputs():
    code = [
        cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"
    ]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
