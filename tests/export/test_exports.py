"""The path from a backbone to a file: nothing unequal is left behind."""

import pytest

from dino_export.errors import ExportError
from dino_export.exports import export
from tests.export.networks import settings_of, small_network


def test_a_file_that_computes_something_else_is_not_left_behind(tmp_path):
    backbone, info = small_network()
    path = tmp_path / "model.ts"
    path.write_bytes(b"an older file")

    class Drifting(type(backbone)):
        def forward(self, images):
            return super().forward(images) + 1e-3

    backbone.__class__ = Drifting
    settings = settings_of("torchscript", outputs=("cls",))
    with pytest.raises(ExportError, match="does not compute what PyTorch does: output 'cls'"):
        export(path, backbone, info, settings)
    assert path.read_bytes() == b"an older file"
    assert list(tmp_path.iterdir()) == [path]
