"""torch.export programs and compiled packages in their own runtimes."""

import pytest

from dino_export.runtimes import open_export
from tests.export.networks import CPU, assert_same, exported


def test_a_program_takes_every_size_and_is_the_same_file_twice(tmp_path):
    backbone = exported(tmp_path / "model.pt2", "pt2")
    exported(tmp_path / "again.pt2", "pt2")
    assert (tmp_path / "model.pt2").read_bytes() == (tmp_path / "again.pt2").read_bytes()
    assert open_export(tmp_path / "model.pt2", device=CPU).metadata["export_format"] == "pt2"
    for size in ((32, 32), (8, 8), (41, 90)):
        assert_same(backbone, tmp_path / "model.pt2", size)


@pytest.mark.slow
def test_a_compiled_package_takes_every_size(tmp_path):
    backbone = exported(tmp_path / "model.pt2", "aoti")
    assert open_export(tmp_path / "model.pt2", device=CPU).metadata["export_format"] == "aoti"
    for size in ((32, 32), (16, 8), (41, 90)):
        assert_same(backbone, tmp_path / "model.pt2", size)
