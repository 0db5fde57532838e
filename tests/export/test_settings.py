"""Settings of exported files that contradict themselves, and the formats of file names."""

from pathlib import Path

import pytest

from dino_export.settings import ENDINGS, ExportSettings, format_of
from dino_infer.weights.info import CheckpointInfo
from tests.export.networks import settings_of, small_network


def test_torchscript_of_any_size_and_int8_of_torch_are_refused():
    with pytest.raises(ValueError, match="TorchScript file holds for one size"):
        ExportSettings(format="torchscript", outputs=("cls",), size=(32, 32))
    with pytest.raises(ValueError, match="`precision='int8'` is for ONNX"):
        settings_of("pt2", precision="int8")


@pytest.mark.parametrize("opset", [17, 24])
def test_operators_that_no_runtime_here_knows_are_refused(opset):
    with pytest.raises(ValueError, match=rf"`opset` must lie in \[18, 23\], got {opset}"):
        settings_of("onnx", opset=opset)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_format_is_that_of_the_ending(ending):
    assert format_of(Path(f"model{ending}")) == ENDINGS[ending]


def test_an_unknown_ending_lists_the_endings_and_the_formats():
    with pytest.raises(ValueError, match=r"one of .onnx, .*`format` be given.*got 'model.bin'"):
        format_of(Path("model.bin"))


@pytest.mark.parametrize(("form", "opset"), [("onnx", 20), ("pt2", None)])
def test_metadata_tell_what_is_open_and_hold_the_checkpoints_own(form, opset):
    _, info = small_network()
    metadata = settings_of(form, dynamic_batch=False).as_metadata(info, "abc")
    assert (metadata["dynamic"], metadata["size"]) == (["size"], None)
    assert (metadata.get("opset"), metadata["weights_sha256"]) == (opset, "abc")
    assert CheckpointInfo.from_metadata(metadata) == info
