"""What files say about themselves is bounded before anything is built from it."""

import json
import struct
import time
from dataclasses import fields

import pytest

from dino_infer.errors import CheckpointError
from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.weights.checkpoints import load_backbone, save_checkpoint
from dino_infer.weights.info import CheckpointInfo, parsed_metadata
from tests.infer.weights.foreign_weights import saved

INFO = CheckpointInfo(arch="vit_micro", patch_size=8, image_size=32)
SHAPE = {"embed_dim": 128, "depth": 6, "num_heads": 4}
HUGE = {"embed_dim": 10**7, "depth": 10**6, "num_heads": 1}
LARGE = {"embed_dim": 2**16, "depth": 256, "num_heads": 1}
LIES = {
    "image_size": ["x", 10**9, 0, -1, 2**70, 1.5, True, None, [32]],
    "input_size": ["x", 10**9, 0],
    "patch_size": ["x", 0, 10**9, -8, None],
    "mean": [[0.5, 0.5], [0.5] * 4, "abc", 0.5, [float("nan")] * 3, ["x"] * 3, [10**400] * 3, None],
    "std": [[0.5, 0.5], [0, 0, 0], [-1, 1, 1], [float("nan")] * 3, [float("inf")] * 3],
    "small_stem": ["yes", 1],
    "arch": [7, None, "x" * 10**5, ["vit_micro"], "nothing like it"],
    "shape": [HUGE, SHAPE | {"depth": "6"}, SHAPE | {"num_heads": 0}, SHAPE | {"num_heads": 3},
              {"depth": 6}, [1], "x", SHAPE | {"hidden_dim": 10**9}, SHAPE | {"registers": -1}],
    "step": [-1, 2**70, "x"],
    "epoch": [float("nan"), "x", 10**400],
    "format_version": ["1", 0, 10**400],
    "position_embedding": [7, ["dino"]],
}  # fmt: skip
BEYOND = {
    "position_embedding": "x" * 1001, "recipe": 7, "data_fingerprint": ["x"], "code_version": 2.0,
    "input_size": 4097, "image_size": True, "patch_size": 4097, "mean": [0, 0, 101],
    "std": [1, 1, 0], "small_stem": 0, "arch": "x" * 1001, "shape": [], "step": 2**63,
    "epoch": -1.0, "format_version": 0,
}  # fmt: skip
BEYOND_OF_SHAPE = {
    "embed_dim": 2**16 + 1, "depth": 257, "num_heads": 2**10 + 1, "hidden_dim": 0,
    "gated": 1, "registers": -1, "layer_scale": "yes", "qkv_bias": None, "rotary": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "b.safetensors"
    save_checkpoint(path, build_backbone("vit_micro", patch_size=8, image_size=32), INFO)
    return path


def lying(path, checkpoint, metadata):
    """The checkpoint with other metadata, and the same tensors."""
    data = checkpoint.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    text = json.dumps(header | {"__metadata__": {"dino": metadata}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in LIES.items() for v in values])
def test_a_lying_field_is_one_line_naming_the_file(tmp_path, checkpoint, field, value):
    content = INFO.as_metadata() | {field: value}
    path = lying(tmp_path / "b.safetensors", checkpoint, json.dumps(content))
    with pytest.raises(CheckpointError, match=r"b\.safetensors") as caught:
        load_backbone(path)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value) or "instead of" in str(caught.value)


@pytest.mark.parametrize("field", [field.name for field in fields(CheckpointInfo)])
def test_every_field_has_bounds(field):
    with pytest.raises(
        CheckpointError, match=rf"the checkpoint's {field} must be (an? |three|true)"
    ):
        CheckpointInfo.from_metadata(INFO.as_metadata() | {field: BEYOND[field]})


@pytest.mark.parametrize("field", [field.name for field in fields(ViTShape)])
def test_every_field_of_a_shape_has_bounds(field):
    shape = SHAPE | {field: BEYOND_OF_SHAPE[field]}
    with pytest.raises(CheckpointError, match=rf"the checkpoint's {field} must be (a |true)"):
        CheckpointInfo.from_metadata(INFO.as_metadata() | {"shape": shape})


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "[]", "7", "{", '{"step": ' + "9" * 10_000 + "}", ""],
    ids=["deep", "deep-objects", "list", "number", "cut", "digits", "empty"],
)
def test_metadata_that_is_no_object_is_one_line(tmp_path, checkpoint, text):
    with pytest.raises(ValueError, match=r"JSON|digits|Expecting"):
        parsed_metadata(text)
    path = lying(tmp_path / "b.safetensors", checkpoint, text)
    with pytest.raises(CheckpointError, match=r"b\.safetensors' is damaged") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{"arch": "vit_giant_patch14_dinov2"}, {"shape": LARGE}, {"image_size": 4096}],
    ids=["arch", "shape", "size"],
)
def test_what_does_not_fit_is_refused_before_it_is_built(tmp_path, checkpoint, changes):
    content = json.dumps(INFO.as_metadata() | changes)
    path = lying(tmp_path / "b.safetensors", checkpoint, content)
    began = time.process_time()
    with pytest.raises(CheckpointError, match="does not fit"):
        load_backbone(path)
    assert time.process_time() - began < 20  # building it takes minutes


@pytest.mark.parametrize("value", ["x", 7, [1], {"arch": 3, "patch_size": 8}])
def test_a_snapshot_may_lie_too(tmp_path, checkpoint, value):
    state = build_backbone("vit_micro", patch_size=8, image_size=32).network.state_dict()
    path = saved(tmp_path / "s.pt", {"teacher": state, "checkpoint_info": value})
    with pytest.raises(CheckpointError, match=r"s\.pt.*(metadata|arch) must be"):
        load_backbone(path)


def damaged_headers(checkpoint):
    """Headers of safetensors that claim what is not there."""
    data = checkpoint.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]

    def written(text):
        return struct.pack("<Q", len(text)) + text + body

    first, second = header[names[0]], header[names[1]]
    overlapping = header | {names[0]: first | {"data_offsets": second["data_offsets"]}}
    beyond = header | {names[0]: first | {"data_offsets": [0, 2**62]}}
    shape = header | {names[0]: first | {"shape": [2**40, 2**40]}}
    text = json.dumps(header)
    twice = text[:-1] + f", {json.dumps(names[0])}: {json.dumps(second)}}}"
    yield struct.pack("<Q", 2**62) + data[8:]
    for changed in (overlapping, beyond, shape):
        yield written(json.dumps(changed).encode())
    yield written(twice.encode())
    yield written(b"{" + b'"a":{' * 50_000)


def test_damaged_headers_of_safetensors_are_one_line(tmp_path, checkpoint):
    for data in damaged_headers(checkpoint):
        path = tmp_path / "b.safetensors"
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="is damaged") as caught:
            load_backbone(path)
        assert "\n" not in str(caught.value)


def test_a_description_shows_what_is_not_usual():
    assert repr(INFO) == "CheckpointInfo(arch='vit_micro', patch_size=8, image_size=32)"
