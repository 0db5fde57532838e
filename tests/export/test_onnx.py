"""Exported ONNX files against the backbone, at sizes that the export has never seen."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch

from dino_export.exports import export
from dino_export.parity import sample_photos
from dino_export.runtimes import open_export
from dino_export.settings import ExportSettings
from dino_infer.embedding.embedder import Embedder
from dino_infer.errors import CheckpointError
from dino_infer.networks.build import build_backbone
from dino_infer.weights.checkpoints import weights_sha256
from dino_infer.weights.info import CheckpointInfo
from tests.export.networks import PLAIN, REGISTERS, ROTARY, SIZE, small_network

CPU = torch.device("cpu")
ALL = ("cls", "patches", "attention")
DYNAMIC = ExportSettings(format="onnx", outputs=ALL, size=(SIZE, SIZE))
SIZES = [(32, 32), (32, 37), (8, 8), (8, 40), (61, 90), (200, 96)]

# Sums of 64 terms in another order, through two blocks; features have unit scale.
ROUNDING = {"rtol": 0, "atol": 2e-5}


def exported_file(folder, shape=PLAIN):
    """A backbone, what it is, and its file, which takes any number of images of any size."""
    backbone, info = small_network(shape)
    export(folder / "model.onnx", backbone, info, DYNAMIC, photos=sample_photos())
    return backbone, info, folder / "model.onnx"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return exported_file(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module", params=[PLAIN, REGISTERS, ROTARY], ids=["dino", "reg", "rotary"])
def exported(request, tmp_path_factory):
    if request.param == PLAIN:
        return request.getfixturevalue("plain")
    return exported_file(tmp_path_factory.mktemp("other"), request.param)


def compare(backbone, run, images):
    with torch.inference_mode():
        tokens, attention = backbone.tokens(images), backbone.cls_attention(images)
    found = run(images)
    for name, expected in (("cls", tokens.cls), ("patches", tokens.patches)):
        torch.testing.assert_close(torch.from_numpy(found[name]), expected, **ROUNDING)
    torch.testing.assert_close(torch.from_numpy(found["attention"]), attention, **ROUNDING)


@pytest.mark.parametrize("batch", [0, 1, 3, 8])
def test_one_file_serves_every_size(exported, batch):
    backbone, _, path = exported
    run = open_export(path, device=CPU).run
    for size in SIZES:
        compare(backbone, run, torch.randn(batch, 3, *size))


def test_two_exports_are_the_same_bytes(plain, tmp_path):
    backbone, info, path = plain
    export(tmp_path / "other.onnx", backbone, info, DYNAMIC, photos=sample_photos())
    assert (tmp_path / "other.onnx").read_bytes() == path.read_bytes()


def test_a_file_has_standard_operators_and_says_nothing_of_where_it_was_made(plain):
    _, _, path = plain
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert not model.functions
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert b".py" not in path.read_bytes() and b"/dino_" not in path.read_bytes()
    onnx.checker.check_model(model, full_check=True)


def test_a_file_tells_what_it_is(plain):
    backbone, info, path = plain
    model = onnx.load(path)
    metadata = json.loads({prop.key: prop.value for prop in model.metadata_props}["dino"])
    assert CheckpointInfo.from_metadata(metadata) == info
    assert metadata["weights_sha256"] == weights_sha256(backbone)
    assert (metadata["outputs"], metadata["precision"]) == (list(ALL), "fp32")
    shapes = [[d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]]
    assert shapes == [["batch", 3, "height", "width"]]


def test_the_embedder_runs_a_file(plain, tmp_path):
    backbone, _, path = plain
    photo = sample_photos()[0]
    for feature in ("cls", "cls+mean", "gem"):
        ours = Embedder.load(path, feature=feature, device="cpu")([photo])
        preprocess = Embedder.load(path, device="cpu").preprocess
        theirs = Embedder(backbone, preprocess, feature=feature, device="cpu", precision="fp32")
        np.testing.assert_allclose(ours, theirs([photo]), **ROUNDING)


def test_a_file_that_normalises_takes_levels_and_the_embedder_knows(plain, tmp_path):
    backbone, info, _ = plain
    own = tmp_path / "levels.onnx"
    info = dataclasses.replace(info, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    settings = dataclasses.replace(DYNAMIC, preprocess=True, outputs=("cls",))
    export(own, backbone, info, settings, photos=sample_photos())
    embedder = Embedder.load(own, device="cpu")
    photo = sample_photos()[0]
    levels = embedder.preprocess.pixels(photo).permute(1, 2, 0)[None]
    theirs = Embedder(backbone, embedder.preprocess, device="cpu", precision="fp32")([photo])
    np.testing.assert_allclose(open_export(own, device=CPU).run(levels)["cls"], theirs, **ROUNDING)
    np.testing.assert_allclose(embedder([photo]), theirs, **ROUNDING)


def test_a_fixed_size_holds_for_that_size_alone(tmp_path):
    backbone, info = small_network()
    path = tmp_path / "fixed.onnx"
    settings = dataclasses.replace(DYNAMIC, dynamic_size=False, dynamic_batch=False, size=(40, 64))
    found = export(path, backbone, info, settings, photos=sample_photos())
    assert found.sizes == ((40, 64),)
    compare(backbone, open_export(path, device=CPU).run, torch.randn(1, 3, 40, 64))
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert not operators & {"Range", "Shape", "Floor", "Resize"}  # positions are baked
    with pytest.raises(CheckpointError, match="takes images of shape .*1, 3, 40, 64"):
        Embedder.load(path, device="cpu")(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(("precision", "share"), [("fp16", 0.55), ("int8", 0.4)])
def test_lower_precision_is_smaller_and_close(plain, tmp_path, precision, share):
    backbone, info, full = plain
    path = tmp_path / "small.onnx"
    settings = dataclasses.replace(DYNAMIC, precision=precision, outputs=("cls",))
    found = export(path, backbone, info, settings, photos=sample_photos())
    assert path.stat().st_size < share * full.stat().st_size + 150_000  # of operators and names
    assert 1e-4 < found.deviations["cls"].max_error < 0.5
    assert Embedder.load(path, device="cpu").description()["precision"] == precision


def test_a_convnet_exports_its_feature_for_any_size(tmp_path):
    torch.manual_seed(0)
    backbone = build_backbone("resnet_micro").eval()
    info = CheckpointInfo(arch="resnet_micro", patch_size=backbone.patch_size, image_size=64)
    settings = ExportSettings(format="onnx", outputs=("cls",), size=(64, 64))
    path = tmp_path / "resnet.onnx"
    export(path, backbone, info, settings, photos=sample_photos())
    images = torch.randn(2, 3, 75, 130)
    with torch.inference_mode():
        found = torch.from_numpy(open_export(path, device=CPU).run(images)["cls"])
        torch.testing.assert_close(found, backbone(images), rtol=1e-4, atol=1e-5)
