"""The quick start as users run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_quick_start_beats_the_untrained_backbone(tmp_path: Path):
    command = [sys.executable, ROOT / "examples" / "demo.py", "--out", tmp_path / "demo"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    untrained, trained = (
        float(re.search(rf"{name} backbone +([\d.]+) %", output)[1])
        for name in ("untrained", "trained")
    )
    assert trained >= untrained + 5, output
    assert len(list((tmp_path / "demo" / "attention").glob("*.png"))) == 4
    assert (tmp_path / "demo" / "model.onnx").stat().st_size > 1_000_000
