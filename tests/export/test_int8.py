"""8-bit files: ranges from a batch or from the user's images, and what each means for a feature."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from dino_export.exports import export
from dino_export.parity import sample_photos
from dino_export.runtimes import open_export
from dino_export.settings import ExportSettings
from dino_infer.networks.build import build_backbone
from dino_infer.weights.info import CheckpointInfo
from tests.export.networks import SIZE, small_network

CPU = torch.device("cpu")
INT8 = ExportSettings(format="onnx", outputs=("cls",), size=(SIZE, SIZE), precision="int8")
SUMS = 1e-6  # float32 sums of a batch in another order


def photos(count):
    """Parts of a photograph, each another."""
    (picture,) = sample_photos()
    return [picture[12 * i : 12 * i + 300, 12 * i : 12 * i + 200] for i in range(count)]


def exported(path, calibration=(), network=None, settings=INT8):
    backbone, info = network or small_network()
    export(path, backbone, info, settings, photos=sample_photos(), calibration=calibration)
    return open_export(path, device=CPU)


def convnet():
    torch.manual_seed(0)
    backbone = build_backbone("resnet_micro").eval()
    info = CheckpointInfo(arch="resnet_micro", patch_size=backbone.patch_size, image_size=64)
    return backbone, info


def dependence_on_batch_mates(run):
    """How much rows change when an image of great contrast joins the batch."""
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images[2] *= 8
    alone = np.concatenate([run(image[None])["cls"] for image in images[:2]])
    together = run(images)["cls"][:2]
    return np.abs(alone - together).max()


@pytest.fixture(scope="module")
def calibrated_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibrated") / "model.onnx"
    exported(path, photos(6))
    return path


def test_calibrated_features_do_not_depend_on_batch_mates(calibrated_file, tmp_path):
    calibrated = open_export(calibrated_file, device=CPU)
    assert dependence_on_batch_mates(calibrated.run) < SUMS
    assert calibrated.metadata["calibration_images"] == 6
    uncalibrated = exported(tmp_path / "uncalibrated.onnx")
    assert dependence_on_batch_mates(uncalibrated.run) > 100 * SUMS
    assert uncalibrated.metadata["calibration_images"] == 0


def test_calibration_with_the_same_images_gives_the_same_bytes(tmp_path):
    settings = dataclasses.replace(INT8, preprocess=True)
    for name in ("one", "two"):
        exported(tmp_path / f"{name}.onnx", photos(6), settings=settings)
    exported(tmp_path / "other.onnx", [255 - photo for photo in photos(6)], settings=settings)
    one, two, other = ((tmp_path / f"{name}.onnx").read_bytes() for name in ("one", "two", "other"))
    assert one == two != other


def test_the_products_of_attention_stay_exact(calibrated_file):
    graph = onnx.load(calibrated_file).graph
    made_by = {output: node for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    rounded = [
        all(made_by[name].op_type == "DequantizeLinear" for name in node.input if name in made_by)
        for node in products
    ]
    depth, per_block, in_attention = 2, 6, 2
    assert len(rounded) == depth * per_block
    assert rounded.count(False) == depth * in_attention


def test_a_convnet_has_an_8_bit_form_when_images_calibrate_it(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match=r"'resnet_micro' is calibrated .*`calibration`"):
        exported(path, network=convnet(), settings=dataclasses.replace(INT8, size=(64, 64)))
    assert not path.exists()
    settings = dataclasses.replace(INT8, size=(64, 64))
    found = exported(path, photos(6), network=convnet(), settings=settings)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert "QuantizeLinear" in kinds and path.stat().st_size < 0.4 * weights_size(convnet()[0])
    assert dependence_on_batch_mates(found.run) < SUMS


def test_only_8_bits_are_calibrated(tmp_path):
    settings = dataclasses.replace(INT8, precision="fp32")
    with pytest.raises(ValueError, match="`calibration` is for `precision='int8'`, got 'fp32'"):
        exported(tmp_path / "model.onnx", photos(1), settings=settings)


def weights_size(backbone):
    return sum(t.numel() * t.element_size() for t in backbone.network.state_dict().values())
