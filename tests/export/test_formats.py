"""TorchScript, torch.export and AOTInductor files in their own runtimes."""

import zipfile
from functools import partial

import numpy as np
import pytest
import torch

from dino_export.errors import ExportError
from dino_export.export import export_backbone
from dino_export.parity import Deviation, Parity, parity, sample_photos
from dino_export.runtimes import opened
from dino_export.settings import ExportSettings
from dino_infer.images.preprocess import Preprocess
from dino_infer.weights.checkpoints import weights_sha256
from dino_train.head import DINOHead
from tests.export.networks import SIZE, small_network

CPU = torch.device("cpu")
OUTPUTS = ("cls", "patches", "attention")

# The same operators in another order.
ROUNDING = {"rtol": 0, "atol": 1e-5}


def settings_of(form, **changes):
    changes = {"outputs": OUTPUTS, "size": (SIZE, SIZE)} | changes
    return ExportSettings(format=form, dynamic_size=form != "torchscript", **changes)


def exported(path, form, **changes):
    backbone, info = small_network()
    export_backbone(path, backbone, info, settings_of(form, **changes), photos=sample_photos())
    return backbone


def assert_same(backbone, path, size):
    run = opened(path, device=CPU).run
    for batch in (0, 3):
        images = torch.randn(batch, 3, *size)
        found = run(images)
        with torch.inference_mode():
            tokens = backbone.tokens(images)
        torch.testing.assert_close(torch.from_numpy(found["cls"]), tokens.cls, **ROUNDING)
        torch.testing.assert_close(torch.from_numpy(found["patches"]), tokens.patches, **ROUNDING)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({0: (1, 4)}, r"output 'cls' must have the shape \(0, 4\), got \(1, 4\)"),
        ({3: (1, 4)}, r"output 'cls' must have the shape \(3, 4\), got \(1, 4\)"),
    ],
)
def test_outputs_of_another_shape_are_unequal_also_for_no_images(wrong, message):
    def run(shapes):
        return lambda images: {"cls": np.ones(shapes.get(len(images), (len(images), 4)))}

    compared = partial(
        parity,
        run({}),
        settings=settings_of("pt2", outputs=("cls",)),
        sizes=[(8, 8)],
        preprocess=Preprocess(),
        photos=sample_photos(),
        device=CPU,
    )
    assert compared(run({})).deviations["cls"].max_error == 0
    with pytest.raises(ExportError, match=message):
        compared(run(wrong))


def test_a_program_takes_every_size_and_is_the_same_file_twice(tmp_path):
    backbone = exported(tmp_path / "model.pt2", "pt2")
    exported(tmp_path / "again.pt2", "pt2")
    assert (tmp_path / "model.pt2").read_bytes() == (tmp_path / "again.pt2").read_bytes()
    assert opened(tmp_path / "model.pt2", device=CPU).metadata["export_format"] == "pt2"
    for size in ((32, 32), (8, 8), (41, 90)):
        assert_same(backbone, tmp_path / "model.pt2", size)


def test_a_torchscript_file_holds_for_its_size_and_has_no_source_paths(tmp_path):
    path = tmp_path / "model.ts"
    backbone = exported(path, "torchscript", size=(40, 56))
    assert_same(backbone, path, (40, 56))
    opened_file = opened(path, device=CPU)
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
    found = export_backbone(path, backbone, info, settings, photos=sample_photos(), head=tensors)
    assert found.deviations["logits"].max_error < 1e-5
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = head(backbone(images))
    logits = torch.from_numpy(opened(path, device=CPU).run(images)["logits"])
    torch.testing.assert_close(logits, expected, **ROUNDING)


def test_a_torchscript_file_is_the_same_twice_in_one_process(tmp_path):
    for name in ("one", "two"):
        exported(tmp_path / f"{name}.ts", "torchscript", outputs=("cls",))
    assert (tmp_path / "one.ts").read_bytes() == (tmp_path / "two.ts").read_bytes()


@pytest.mark.slow
def test_a_compiled_package_takes_every_size(tmp_path):
    backbone = exported(tmp_path / "model.pt2", "aoti")
    assert opened(tmp_path / "model.pt2", device=CPU).metadata["export_format"] == "aoti"
    for size in ((32, 32), (16, 8), (41, 90)):
        assert_same(backbone, tmp_path / "model.pt2", size)


def test_torchscript_of_any_size_and_int8_of_torch_are_refused():
    with pytest.raises(ValueError, match="TorchScript file holds for one size"):
        ExportSettings(format="torchscript", outputs=("cls",), size=(32, 32))
    with pytest.raises(ValueError, match="'int8' is for ONNX"):
        settings_of("pt2", precision="int8")


@pytest.mark.parametrize(
    ("precision", "error", "cosine", "equal"),
    [
        ("fp32", 9e-5, 1.0, True),
        ("fp32", 2e-4, 1.0, False),
        ("fp32", 0.0, 0.9999, False),
        ("fp32", float("nan"), float("nan"), False),
        ("fp16", 1e-2, 0.99991, True),
        ("fp16", 1e-2, 0.9998, False),
        ("int8", 1e-1, 0.991, True),
        ("int8", 1e-1, 0.98, False),
    ],
)
def test_the_bounds_of_each_precision(tmp_path, precision, error, cosine, equal):
    row = Deviation(max_error=error, mean_error=error, cosine=cosine)
    found = Parity(deviations={"cls": row}, images=1, sizes=((8, 8),), neighbor_agreement=1.0)
    if equal:
        found.check(precision, tmp_path)
    else:
        with pytest.raises(ExportError, match="output 'cls' must have .* nothing was written"):
            found.check(precision, tmp_path)


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
        export_backbone(path, backbone, info, settings, photos=sample_photos())
    assert path.read_bytes() == b"an older file"
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_others_are_named(tmp_path):
    for name, content in (("a.ts", b"text"), ("b.onnx", b"text")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Exception, match=f"{name}.*(not an export|cannot be run)"):
            opened(tmp_path / name, device=CPU)
    with pytest.raises(ExportError, match="no file at"):
        opened(tmp_path / "none.pt2", device=CPU)
