"""Engines give the same features, say what they run, and refuse what they cannot."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from dino_infer.cli import embed
from dino_infer.devices import resolved_precision
from dino_infer.embedding.embedder import Embedder
from dino_infer.embedding.engines import Engine, OnnxEngine, TorchEngine
from dino_infer.embedding.pooling import feature_of
from dino_infer.errors import CheckpointError
from dino_infer.features.files import read_features
from dino_infer.images.preprocess import Preprocess
from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.sources.image_list import list_images
from dino_infer.weights.checkpoints import save_checkpoint, weights_sha256
from dino_infer.weights.info import CheckpointInfo

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
SMALL = ViTShape(embed_dim=32, depth=2, num_heads=2)
ROUNDING = 1e-5  # of float32, of means over an image
COMPILED = 1e-5  # fused sums are in another order
PATCH = 8
INFO = CheckpointInfo(
    arch="means", patch_size=PATCH, image_size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.5)
)


def write_means(path, *, sides=("height", "width"), patches=True, metadata=True, uint8=False):
    """An exported network whose [CLS] is the mean colour, and whose patches are theirs."""
    shape = ["batch", *sides, 3] if uint8 else ["batch", 3, *sides]
    given = TensorProto.UINT8 if uint8 else TensorProto.FLOAT
    nodes = []
    if uint8:
        nodes += [
            helper.make_node("Cast", ["images"], ["levels"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        ]
    planes = "planes" if uint8 else "images"
    outputs = [helper.make_tensor_value_info("cls", TensorProto.FLOAT, ["batch", 3])]
    nodes.append(helper.make_node("ReduceMean", [planes], ["cls"], axes=[2, 3], keepdims=0))
    constants = []
    if patches:
        kernel = {"kernel_shape": [PATCH, PATCH], "strides": [PATCH, PATCH]}
        constants.append(helper.make_tensor("flat", TensorProto.INT64, [3], [0, 3, -1]))
        nodes += [
            helper.make_node("AveragePool", [planes], ["cells"], **kernel),
            helper.make_node("Reshape", ["cells", "flat"], ["columns"]),
            helper.make_node("Transpose", ["columns"], ["patches"], perm=[0, 2, 1]),
        ]
        shape_out = ["batch", "patches", 3]
        outputs.append(helper.make_tensor_value_info("patches", TensorProto.FLOAT, shape_out))
    images = helper.make_tensor_value_info("images", given, shape)
    graph = helper.make_graph(nodes, "means", [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        described = INFO.as_metadata() | {"weights_sha256": "ab" * 32, "precision": "fp32"}
        described["outputs"] = ["cls", "patches"][: 1 + patches]
        described |= {"input": "uint8_nhwc"} if uint8 else {}
        helper.set_model_props(model, {"dino": json.dumps(described)})
    onnx.save(model, path)
    return path


@pytest.fixture
def exported(tmp_path):
    return write_means(tmp_path / "means.onnx")


@pytest.fixture
def photos(tmp_path):
    """Five noisy pictures of different colours."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(5):
        picture = rng.integers(0, 50 + 40 * i, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def means_of(photos):
    """Features of the network of means, by NumPy."""
    preprocess = Preprocess(size=32, mean=INFO.mean, std=INFO.std)
    pictures = [np.asarray(Image.open(path)) for path in sorted(photos.iterdir())]
    return np.stack([preprocess(picture).numpy().mean((1, 2)) for picture in pictures])


def test_an_exported_file_is_embedded_as_it_says(exported, photos):
    embedder = Embedder.load(exported, device="cpu", batch_size=2)
    assert isinstance(embedder.engine, Engine) and isinstance(embedder.engine, OnnxEngine)
    assert embedder.preprocess == Preprocess(size=32, mean=INFO.mean, std=INFO.std)
    got = embedder.embed(list_images([photos])).features
    np.testing.assert_allclose(got, means_of(photos), atol=ROUNDING)
    described = embedder.description()
    assert described["weights_sha256"] == "ab" * 32
    names = ("arch", "feature", "precision")
    assert [described[name] for name in names] == ["means", "cls", "fp32"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_normalises_is_given_the_levels(tmp_path, photos, workers):
    path = write_means(tmp_path / "levels.onnx", uint8=True)
    embedder = Embedder.load(path, device="cpu", workers=workers, batch_size=2)
    got = embedder.embed(list_images([photos])).features
    pictures = [np.asarray(Image.open(path)) for path in sorted(photos.iterdir())]
    levels = [Preprocess(size=32).pixels(picture).numpy().mean((1, 2)) for picture in pictures]
    np.testing.assert_allclose(got, np.stack(levels), rtol=ROUNDING)


@pytest.mark.parametrize("feature", ["mean", "cls+mean", "gem", "patches"])
def test_an_exported_file_pools_its_patches(exported, feature):
    images = torch.rand(2, 3, 16, 24)
    got = OnnxEngine(exported, feature=feature, device=CPU)(images)
    cells = images.unfold(2, 8, 8).unfold(3, 8, 8).mean((-1, -2)).flatten(2).transpose(1, 2)
    expected = {
        "mean": cells.mean(1),
        "cls+mean": torch.cat([images.mean((2, 3)), cells.mean(1)], dim=1),
        "gem": cells.pow(4).mean(1).pow(0.25),
        "patches": cells,
    }
    torch.testing.assert_close(got, expected[feature], atol=ROUNDING, rtol=ROUNDING)


def test_an_exported_file_may_lack_a_feature(tmp_path, exported):
    cls_only = write_means(tmp_path / "cls.onnx", patches=False)
    assert OnnxEngine(cls_only, feature="cls", device=CPU).patch_size is None
    with pytest.raises(ValueError, match="feature 'mean' is made of .* 'means' has none"):
        OnnxEngine(cls_only, feature="mean", device=CPU)
    with pytest.raises(ValueError, match="'last4' is not in exported files; give the weights"):
        OnnxEngine(exported, feature="last4", device=CPU)


def test_a_file_of_one_size_takes_that_size_alone(tmp_path, photos):
    fixed = write_means(tmp_path / "fixed.onnx", sides=(32, 32))
    assert Embedder.load(fixed, device="cpu").embed(list_images([photos])).ok.all()
    with pytest.raises(CheckpointError, match=r"\[.*3, 32, 32\] alone, got \(5, 3, 48, 48\)"):
        Embedder.load(fixed, device="cpu", size=48).embed(list_images([photos]))


def test_other_onnx_files_are_refused(tmp_path):
    foreign = write_means(tmp_path / "foreign.onnx", metadata=False)
    with pytest.raises(CheckpointError, match="is not an export of this toolkit: expected metad"):
        Embedder.load(foreign, device="cpu")
    (tmp_path / "damaged.onnx").write_bytes(foreign.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"damaged.onnx' cannot be run \(.*export it again"):
        Embedder.load(tmp_path / "damaged.onnx", device="cpu")
    with pytest.raises(CheckpointError, match="no file at '.*none.onnx'"):
        Embedder.load(tmp_path / "none.onnx", device="cpu")


@pytest.mark.parametrize(
    "lie",
    [
        "null",
        "[]",
        "no JSON",
        "[" * 100_000,
        {"patch_size": "8"},
        {"image_size": 10**30},
        {"input_size": 1 << 40},
        {"image_size": None},
        {"image_size": True},
        {"mean": [0.5, 0.5]},
        {"mean": None},
        {"std": [0.5, 0.5, 0]},
        {"std": [0.5, 0.5, float("nan")]},
        {"std": "abc"},
        {"shape": [1]},
        {"weights_sha256": None},
        {"precision": 32},
        {"format_version": "1"},
    ],
)
def test_a_file_whose_metadata_lies_is_refused(tmp_path, exported, lie):
    model = onnx.load(exported)
    (entry,) = model.metadata_props
    entry.value = lie if isinstance(lie, str) else json.dumps(json.loads(entry.value) | lie)
    onnx.save(model, tmp_path / "lying.onnx")
    with pytest.raises(CheckpointError, match=r"'dino' of '.*lying.onnx' is damaged \(.*again"):
        Embedder.load(tmp_path / "lying.onnx", device="cpu")


def test_dino_embed_runs_an_exported_file(capsys, tmp_path, exported, photos):
    out = tmp_path / "feats.npy"
    args = [str(photos), "-o", str(out), "--weights", str(exported)]
    assert embed.main([*args, "--engine", "onnx"]) == 0
    np.testing.assert_allclose(read_features(out).matrix, means_of(photos), atol=ROUNDING)
    capsys.readouterr()
    assert embed.main([*args, "--overwrite", "--engine", "torch"]) == 2
    assert "engine 'torch' runs PyTorch weights, got" in capsys.readouterr().err
    assert embed.main([*args, "--overwrite", "--feature", "last4"]) == 2
    assert "'last4' is not in exported files" in capsys.readouterr().err


@pytest.fixture
def backbone():
    return build_backbone("vit", shape=SMALL, patch_size=8, image_size=32).eval()


def test_a_backbone_runs_without_gradients_and_in_float32(backbone):
    images = torch.randn(2, 3, 32, 32)
    engine = TorchEngine(backbone, feature="mean", device=CPU, precision="fp32")
    got = engine(images)
    with torch.no_grad():
        assert torch.equal(got, feature_of(backbone, images, "mean"))
    assert not got.requires_grad and engine.patch_size == 8
    assert engine.description() == {
        "arch": "vit",
        "feature": "mean",
        "precision": "fp32",
        "weights_sha256": weights_sha256(backbone),
    }


def test_what_the_caller_trains_on_is_described_anew(backbone):
    engine = TorchEngine(backbone, feature="cls", device=CPU)
    before = engine.description()["weights_sha256"]
    torch.nn.init.zeros_(backbone.network.cls_token)
    assert engine.description()["weights_sha256"] != before


def test_auto_precision_is_what_the_processor_multiplies_natively(backbone):
    native = torch.cpu._is_avx512_bf16_supported()
    assert resolved_precision("auto", CPU) == ("bf16" if native else "fp32")
    for precision in ("fp32", "bf16", "fp16"):
        engine = TorchEngine(backbone, feature="cls", device=CPU, precision=precision)
        assert engine.description()["precision"] == precision
    # Checked annotations refuse an unknown precision before the function itself does.
    with pytest.raises(Exception, match="precision"):
        resolved_precision("int4", CPU)


def test_lower_precision_copies_the_weights_it_changes(backbone):
    engine = TorchEngine(backbone, feature="cls", device=CPU, precision="bf16")
    described = engine.description()["weights_sha256"]
    images = torch.randn(2, 3, 32, 32)
    exact = TorchEngine(backbone, feature="cls", device=CPU, precision="fp32")
    rough = engine(images).float()
    assert (torch.cosine_similarity(rough, exact(images)) > 0.999).all()
    assert not torch.equal(rough, exact(images))
    assert {weight.dtype for weight in backbone.parameters()} == {torch.float32}
    assert described == weights_sha256(backbone)


def test_a_convnet_is_pooled_and_has_no_patches():
    resnet = build_backbone("resnet_micro")
    engine = TorchEngine(resnet, feature="cls", device=CPU)
    assert engine.patch_size is None and engine.description()["feature"] == "pooled"
    with pytest.raises(ValueError, match="'resnet_micro' has none"):
        TorchEngine(resnet, feature="patches", device=CPU)


@pytest.mark.slow
def test_a_compiled_backbone_gives_the_same_for_every_batch(tmp_path, backbone, photos):
    # In a process of its own: types that are checked while tests run cannot be compiled.
    save_checkpoint(
        tmp_path / "vit.safetensors",
        backbone,
        CheckpointInfo(arch="vit", shape=SMALL, patch_size=8, image_size=32),
    )
    code = "import sys; from dino_infer.cli.embed import main; sys.exit(main(sys.argv[1:]))"
    flags = ["--weights", tmp_path / "vit.safetensors", "--precision", "fp32", "--batch-size", "3"]
    for name, more in (("plain", []), ("fused", ["--compile"])):
        command = [sys.executable, "-c", code, photos, "-o", tmp_path / f"{name}.npy", *flags]
        done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    rows = [read_features(tmp_path / f"{name}.npy").matrix for name in ("plain", "fused")]
    np.testing.assert_allclose(rows[1], rows[0], atol=COMPILED)
