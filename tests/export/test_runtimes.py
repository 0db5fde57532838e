"""Exported files opened again, and files that are none."""

import pytest

from dino_export.errors import ExportError
from dino_export.runtimes import open_export
from tests.export.networks import CPU


def test_files_of_others_are_named(tmp_path):
    for name, content in (("a.ts", b"text"), ("b.onnx", b"text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Exception, match=f"{name}.*(not an export|cannot be run)"):
            open_export(tmp_path / name, device=CPU)
    with pytest.raises(ExportError, match="no file at"):
        open_export(tmp_path / "none.pt2", device=CPU)
