"""TorchScript files in their own runtime."""

import zipfile

import pytest
import torch

from dino_export.exports import export
from dino_export.runtimes import open_export
from dino_infer.weights.checkpoints import weights_sha256
from dino_train.head import DINOHead
from tests.export.networks import (
    CPU,
    ROUNDING,
    SIZE,
    assert_same,
    exported,
    settings_of,
    small_network,
)


def test_a_torchscript_file_holds_for_its_size_and_has_no_source_paths(tmp_path):
    path = tmp_path / "model.ts"
    backbone = exported(path, "torchscript", size=(40, 56))
    assert_same(backbone, path, (40, 56))
    opened_file = open_export(path, device=CPU)
    assert opened_file.metadata["size"] == [40, 56]
    assert opened_file.metadata["weights_sha256"] == weights_sha256(backbone)
    assert not any("debug" in name for name in zipfile.ZipFile(path).namelist())
    with pytest.raises(RuntimeError):
        opened_file.run(torch.randn(1, 3, 32, 32))


def test_the_head_adds_its_logits(tmp_path):
    backbone, info = small_network()
    head = DINOHead(64, 50, hidden_dim=24, bottleneck_dim=8).eval()
    settings = settings_of("torchscript", outputs=("cls", "logits"))
    path = tmp_path / "model.ts"
    tensors = head.state_dict()
    found = export(path, backbone, info, settings, head=tensors)
    assert found.deviations["logits"].max_error < 1e-5
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = head(backbone(images))
    logits = torch.from_numpy(open_export(path, device=CPU).run(images)["logits"])
    torch.testing.assert_close(logits, expected, **ROUNDING)


def test_a_torchscript_file_is_the_same_twice_in_one_process(tmp_path):
    for name in ("one", "two"):
        exported(tmp_path / f"{name}.ts", "torchscript", outputs=("cls",))
    assert (tmp_path / "one.ts").read_bytes() == (tmp_path / "two.ts").read_bytes()
