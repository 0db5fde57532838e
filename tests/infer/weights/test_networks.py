"""Which network of a file is taken, and how another is asked for."""

import re

import pytest
import torch

from dino_infer.errors import CheckpointError
from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.weights.checkpoints import load_backbone, read_training_weights, weights_sha256
from dino_infer.weights.networks import found_networks
from tests.infer.weights.foreign_weights import renamed, saved

SHAPE = ViTShape(embed_dim=64, depth=1, num_heads=1)


def network(seed):
    torch.manual_seed(seed)
    return build_backbone("vit", shape=SHAPE, patch_size=8, image_size=16).eval()


@pytest.fixture(scope="module")
def good():
    return network(0)


@pytest.fixture(scope="module")
def other():
    return network(1)


def under(prefix, backbone):
    return {prefix + name: tensor for name, tensor in backbone.network.state_dict().items()}


def layouts(good, other):
    """Training states as their projects write them; ``good`` is the average."""
    plain_good, plain_other = under("", good), under("", other)
    return {
        "timm": {"arch": "vit", "state_dict": plain_other, "state_dict_ema": plain_good},
        "model_ema": {"model": plain_other, "model_ema": under("module.", good)},
        "solo-learn": {"epoch": 9, "state_dict": under("backbone.", other)
                       | under("momentum_backbone.", good)
                       | {"classifier.weight": torch.zeros(10, 64)}},
        "dinov2": {"model": under("student.backbone.", other) | under("teacher.backbone.", good)},
        "dinov3": {"model": under("student.backbone.", other) | under("teacher.backbone.", good)
                   | under("model_ema.backbone.", other)},
        "fsdp": {"model": under("student.backbone._fsdp_wrapped_module.", other)
                 | {re.sub(r"(blocks\.\d+\.)", r"\1_fsdp_wrapped_module.", name): tensor
                    for name, tensor in under("teacher.backbone._orig_mod.", good).items()}},
        "lightly": {"state_dict": under("student_backbone.vit.", other)
                    | under("teacher_backbone.vit.", good)},
        "lightly-train": {"state_dict":
                          under("student_embedding_model.wrapped_model._model.", other)
                          | under("teacher_embedding_model.wrapped_model._model.", good)},
        "stable-pretraining": {"state_dict": under("backbone.student.", other)
                               | under("backbone.teacher.", good)},
        "mmpretrain": {"meta": {}, "state_dict": under("backbone.", other)
                       | under("target_net.module.0.", good)},
        "mmengine": {"message_hub": {}, "state_dict": under("backbone.", good),
                     "ema_state_dict": under("module.backbone.", other)},
        "averaging": {"state_dict": under("model.", good),
                      "current_model_state": under("model.", other)},
        "callback": {"state_dict": under("model.", other),
                     "callbacks": {"EMA": {"ema_state_dict": under("model.", good)}}},
        "unnamed student": {"state_dict": under("backbone.", other)
                            | under("teacher.backbone.", good)},
    }  # fmt: skip


@pytest.mark.parametrize(
    "project",
    ["timm", "model_ema", "solo-learn", "dinov2", "dinov3", "fsdp", "lightly", "lightly-train",
     "stable-pretraining", "mmpretrain", "mmengine", "averaging", "callback"],
)  # fmt: skip
def test_the_average_is_taken_and_the_student_when_asked(tmp_path, good, other, project):
    path = saved(tmp_path / "w.pth", layouts(good, other)[project])
    assert weights_sha256(load_backbone(path)[0]) == weights_sha256(good)
    student = load_backbone(path, checkpoint_key="student")[0]
    assert weights_sha256(student) == weights_sha256(other)
    assert list(read_training_weights(path)) == ["backbone"]


@pytest.mark.parametrize(
    ("project", "key"),
    [("timm", "state_dict"), ("solo-learn", "backbone"), ("dinov2", "student.backbone."),
     ("dinov2", "student"), ("dinov3", "model_ema"), ("lightly", "student_backbone"),
     ("stable-pretraining", "backbone.student"), ("callback", "state_dict.model"),
     ("unnamed student", "backbone")],  # the place of the other one ends so too
)  # fmt: skip
def test_a_prefix_chooses_a_network(tmp_path, good, other, project, key):
    path = saved(tmp_path / "w.pth", layouts(good, other)[project])
    loaded, _ = load_backbone(path, checkpoint_key=key)
    assert weights_sha256(loaded) == weights_sha256(other)


def test_a_file_that_leaves_the_choice_open_names_it(tmp_path, good, other):
    state = under("encoder_q.", good) | under("encoder_k.", other)
    path = saved(tmp_path / "moco.pth", {"state_dict": state})
    with pytest.raises(CheckpointError, match="pass `checkpoint_key` as one of 'encoder_q', 'enco"):
        load_backbone(path)
    for name, expected in (("encoder_q", good), ("encoder_k", other)):
        loaded, _ = load_backbone(path, checkpoint_key=name)
        assert weights_sha256(loaded) == weights_sha256(expected)
    with pytest.raises(CheckpointError, match="no 'mentor' weights; pass `checkpoint_key` as one "):
        load_backbone(path, checkpoint_key="mentor")


def test_an_unknown_family_is_told_apart_by_backbone_prefixes():
    state = {"backbone.a.weight": torch.ones(1), "momentum_backbone.a.weight": torch.ones(1)}
    found = found_networks({"state_dict": state, "dino_loss": {"center": torch.zeros(1, 8)}})
    assert [(n.name, n.role) for n in found] == [
        ("backbone", None), ("momentum_backbone", "teacher"),
    ]  # fmt: skip


def test_the_count_of_an_averaged_model_is_left_out(tmp_path, good):
    averaged = under("module.", good) | {"n_averaged": torch.tensor(3)}
    loaded, _ = load_backbone(saved(tmp_path / "w.pth", {"model": averaged}))
    assert weights_sha256(loaded) == weights_sha256(good)


def test_a_dict_that_holds_itself_ends(good):
    content = {"state_dict": under("", good)}
    content["again"] = content
    assert [network.name for network in found_networks(content)] == ["state_dict"]


def test_shards_say_how_to_join_them(tmp_path):
    shard = {"model": {"teacher.backbone._fsdp_wrapped_module._flat_param": torch.ones(9)}}
    with pytest.raises(CheckpointError, match="flattened shards of FSDP; gather"):
        load_backbone(saved(tmp_path / "rank_0.pth", shard))
    (tmp_path / ".metadata").touch()
    with pytest.raises(CheckpointError, match="distributed checkpoint; join it with python -m"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(("channels", "remedy"), [(1, "repeated for R, G and B"), (4, "on RGB")])
def test_other_channel_counts_say_so(tmp_path, good, channels, remedy):
    state = under("", good)
    state["patch_embed.proj.weight"] = torch.zeros(64, channels, 8, 8)
    path = saved(tmp_path / "w.pth", state)
    for load in (load_backbone, read_training_weights):
        with pytest.raises(CheckpointError, match=f"of {channels} channels, expected 3.*{remedy}"):
            load(path)


def test_a_vit_of_mmpretrain_has_its_own_names(tmp_path, good):
    state = renamed(
        under("backbone.", good),
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"blocks\.(\d+)\.norm(\d)", r"layers.\1.ln\2"),
        (r"blocks\.(\d+)\.mlp\.fc1", r"layers.\1.ffn.layers.0.0"),
        (r"blocks\.(\d+)\.mlp\.fc2", r"layers.\1.ffn.layers.1"),
        (r"blocks\.", "layers."),
        (r"backbone\.norm\.", "backbone.ln1."),
    )
    loaded, _ = load_backbone(saved(tmp_path / "w.pth", {"state_dict": state}))
    assert weights_sha256(loaded) == weights_sha256(good)
