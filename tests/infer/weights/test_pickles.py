"""Training states that hold more than tensors, read without running any of it."""

import zipfile

import pytest
import torch
from torch import nn

from dino_infer.errors import CheckpointError
from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.weights.checkpoints import load_backbone, read_training_weights, weights_sha256
from tests.infer.weights.foreign_weights import saved, training_state

SHAPE = ViTShape(embed_dim=64, depth=1, num_heads=1)


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("vit", shape=SHAPE, patch_size=8, image_size=16).eval()


def with_older_numpy(path):
    """The file as NumPy 1 would have named its scalars."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            if name.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\nscalar\n" in data
                data = data.replace(b"cnumpy._core.multi", b"cnumpy.core.multi")
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("numpy", ["new", "old", "legacy", "old legacy"])
def test_a_training_state_of_the_original_loads_with_its_numpy_numbers(tmp_path, backbone, numpy):
    path = tmp_path / "checkpoint.pth"
    torch.save(
        training_state(backbone, arch="vit_small"),
        path,
        _use_new_zipfile_serialization="legacy" not in numpy,
    )
    if numpy == "old":
        with_older_numpy(path)
    if numpy == "old legacy":
        data = path.read_bytes()
        assert b"cnumpy._core.multiarray\nscalar\n" in data
        path.write_bytes(data.replace(b"cnumpy._core.multi", b"cnumpy.core.multi"))
    loaded, _ = load_backbone(path)
    assert weights_sha256(loaded) == weights_sha256(backbone)
    weights = read_training_weights(path, "student")
    assert torch.equal(weights["backbone"]["norm.weight"], -backbone.network.norm.weight)
    assert sorted(weights["head"]) == ["last_layer.weight_v", "mlp.0.weight"]


def test_the_arch_among_the_arguments_is_used_where_no_shape_tells(tmp_path):
    resnet = build_backbone("resnet18").eval()
    path = saved(tmp_path / "checkpoint.pth", training_state(resnet, arch="resnet18"))
    as_dict = training_state(resnet, arch="") | {"args": {"arch": "resnet18"}}
    for file in (path, saved(tmp_path / "dict.pth", as_dict)):
        loaded, info = load_backbone(file)
        assert info.arch == "resnet18"
        assert weights_sha256(loaded) == weights_sha256(resnet)
    path = saved(tmp_path / "checkpoint.pth", training_state(resnet, arch="mine"))
    with pytest.raises(CheckpointError, match="cannot tell the architecture"):
        load_backbone(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_another_pickle_protocol_says_how_to_save(tmp_path, backbone, zipped):
    state, path = backbone.network.state_dict(), tmp_path / "w.pth"
    torch.save(state, path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="save it again without pickle_protocol"):
        load_backbone(path)


def test_configurations_of_other_projects_are_read_as_inert_objects(tmp_path, backbone):
    """A pickle that names classes which are not installed, as Lightning's of solo-learn do."""
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": backbone.network.state_dict(), "hyper_parameters": 1}, path)
    names = [
        b"omegaconf.dictconfig\nDictConfig\n", b"lightning.fabric.utilities.data\nAttributeDict\n",
        b"collections\ndefaultdict\n", b"typing\nAny\n",
    ]  # fmt: skip
    replace_number(path, b"(" + b"".join(b"c" + name + b")R" for name in names) + b"t")
    assert weights_sha256(load_backbone(path)[0]) == weights_sha256(backbone)


@pytest.mark.parametrize("name", [b"os\nsystem\n", b"builtins\neval\n", b"numpy_evil\nrun\n"])
def test_all_other_names_are_refused(tmp_path, backbone, name):
    path = tmp_path / "w.ckpt"
    torch.save({"state_dict": backbone.network.state_dict(), "hyper_parameters": 1}, path)
    target = tmp_path / "was-here"
    command = f"touch {target}".encode()
    replace_number(
        path, b"c" + name + b"X" + len(command).to_bytes(4, "little") + command + b"\x85R"
    )
    with pytest.raises(CheckpointError, match="refused: it holds"):
        load_backbone(path)
    assert not target.exists()


def replace_number(path, code):
    """Put pickle code in the place of the number 1."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            if name.endswith("data.pkl"):
                assert data.count(b"K\x01u.") == 1
                data = data.replace(b"K\x01u.", code + b"u.")
            archive.writestr(name, data)


def test_a_pickled_network_says_what_to_save_instead(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(
        CheckpointError, match=r"a dict of tensors, got .*; save the state_dict\(\)"
    ):
        load_backbone(tmp_path / "whole.pth")


def test_a_flipped_bit_of_a_tensor_is_found(tmp_path, backbone):
    path = saved(tmp_path / "w.pth", backbone.network.state_dict())
    data = bytearray(path.read_bytes())
    at = data.index(backbone.network.norm.weight.detach().numpy().tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    for load in (load_backbone, read_training_weights):
        with pytest.raises(CheckpointError, match="damaged .* does not match its checksum.*again$"):
            load(path)


def test_tensors_that_claim_more_than_their_data_are_refused(tmp_path, backbone):
    state = backbone.network.state_dict()
    state["pos_embed"] = torch.zeros(1, 1, 1).expand(1, 10**6, 10**6)
    with pytest.raises(CheckpointError, match="'pos_embed' of shape .* is larger than its data"):
        load_backbone(saved(tmp_path / "w.pth", state))


def test_a_sparse_tensor_is_refused(tmp_path, backbone):
    state = backbone.network.state_dict() | {"pos_embed": torch.zeros(1, 5, 64).to_sparse()}
    path = saved(tmp_path / "w.pth", state)
    with (
        pytest.warns(UserWarning, match="sparse tensor"),
        pytest.raises(CheckpointError, match="'pos_embed' must be a plain one, got torch.sparse"),
    ):
        load_backbone(path)
