"""Files of other projects, written here in exactly their layout, give the network they hold."""

import pytest
import torch

from dino_infer.errors import CheckpointError
from dino_infer.networks.build import build_backbone
from dino_infer.weights.architectures import PUBLISHED, inferred_info
from dino_infer.weights.checkpoints import (
    backbone_of_timm,
    load_backbone,
    read_training_weights,
    save_checkpoint,
    weights_sha256,
)
from dino_infer.weights.info import CheckpointInfo
from tests.infer.weights.foreign_weights import (
    DINOV2,
    DINOV2_GIANT,
    DINOV2_REGISTERS,
    DINOV3,
    DINOV3_PLUS,
    ROUNDING,
    meta_dinov2,
    meta_dinov3,
    meta_xcit,
    network_of,
    same_features,
    saved,
    with_random_weights,
)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("shape", [DINOV2, DINOV2_GIANT])
def test_a_dinov2_file_gives_its_network_whatever_its_width(tmp_path, shape, chunked):
    network = network_of(shape)
    path = saved(tmp_path / "dinov2.pth", meta_dinov2(network, chunked=chunked))
    loaded, info = load_backbone(path)
    assert (info.arch, info.shape, info.patch_size, info.image_size) == ("vit", shape, 14, 70)
    assert info.position_embedding == loaded.position_embedding == "dino"
    same_features(loaded, network, size=(70, 70))
    same_features(loaded, network, size=(56, 98))


def test_registers_of_dinov2_come_with_its_other_way_of_resampling(tmp_path):
    network = network_of(DINOV2_REGISTERS)
    loaded, info = load_backbone(saved(tmp_path / "reg.pth", meta_dinov2(network)))
    assert (info.shape, info.image_size) == (DINOV2_REGISTERS, 70)
    assert info.position_embedding == loaded.position_embedding == "antialiased"
    same_features(loaded, network, size=(70, 70), **ROUNDING)
    same_features(loaded, network, size=(56, 98), **ROUNDING)
    network.position_embedding = "dino"
    with pytest.raises(AssertionError, match="not close"):
        same_features(loaded, network, size=(56, 98), **ROUNDING)


@pytest.mark.parametrize("shape", [DINOV3, DINOV3_PLUS])
def test_a_dinov3_file_gives_its_network_with_the_periods_it_learned(tmp_path, shape):
    network = network_of(shape, patch_size=16)
    rounded = network.network.rope.periods.bfloat16()
    network.network.rope.periods.copy_(rounded)
    state = meta_dinov3(network) | {"rope_embed.periods": rounded}
    loaded, info = load_backbone(saved(tmp_path / "dinov3.pth", state))
    assert (info.arch, info.shape, info.patch_size) == ("vit", shape, 16)
    assert info.position_embedding == "rotary"
    same_features(loaded, network, size=(48, 80))
    save_checkpoint(tmp_path / "ours.safetensors", loaded, info)
    again, _ = load_backbone(tmp_path / "ours.safetensors")
    same_features(again, network, size=(48, 80))


@pytest.mark.parametrize("shape", [DINOV2, DINOV2_GIANT, DINOV2_REGISTERS, DINOV3_PLUS])
def test_a_network_without_a_name_survives_saving_and_loading(tmp_path, shape):
    network = network_of(shape)
    info = inferred_info(network.network.state_dict(), num_heads=shape.num_heads)
    save_checkpoint(tmp_path / "b.safetensors", network, info)
    loaded, loaded_info = load_backbone(tmp_path / "b.safetensors")
    assert loaded_info == info and info.shape == shape
    same_features(loaded, network, size=(56, 98))


def test_the_published_dinov2_and_dinov3_get_the_names_that_timm_has(tmp_path):
    for arch, original in (
        ("vit_small_patch14_reg4_dinov2", meta_dinov2),
        ("vit_small_patch16_dinov3_qkvb", meta_dinov3),
    ):
        network = with_random_weights(build_backbone(arch, image_size=518))
        state = original(network)
        path = saved(tmp_path / "published.pth", state)
        loaded, info = load_backbone(path)
        dinov2 = arch.endswith("dinov2")
        assert (info.arch, info.shape, loaded.arch) == (arch, None, arch)
        assert (info.image_size, info.input_size) == ((518, 224) if dinov2 else (256, None))
        network.position_embedding = "antialiased" if dinov2 else "dino"
        same_features(loaded, network, size=(56, 112), **ROUNDING)


@pytest.mark.parametrize("arch", sorted(PUBLISHED.keys()))
def test_every_published_shape_is_the_one_timm_builds_under_that_name(arch):
    shape, patch_size = PUBLISHED[arch], 14 if "patch14" in arch else 16
    with torch.device("meta"):
        ours = build_backbone("vit", shape=shape, patch_size=patch_size, image_size=224)
        named = build_backbone(arch, patch_size=patch_size, image_size=224)
    shapes = [
        {name: tensor.shape for name, tensor in backbone.network.state_dict().items()}
        for backbone in (ours, named)
    ]
    assert shapes[0] == shapes[1]
    assert ours.network.blocks[0].attn.num_heads == named.network.blocks[0].attn.num_heads
    assert ours.network.norm.eps == named.network.norm.eps
    info = inferred_info(named.network.state_dict())
    assert (info.arch, info.shape, info.patch_size) == (arch, None, patch_size)


def test_an_xcit_file_gives_its_network(tmp_path):
    network = with_random_weights(build_backbone("xcit_nano_12_p16_224"))
    loaded, info = load_backbone(saved(tmp_path / "xcit.pth", meta_xcit(network)))
    assert (info.arch, info.patch_size) == ("xcit_nano_12_p16_224", 16)
    assert weights_sha256(loaded) == weights_sha256(network)


@pytest.mark.parametrize(
    ("arch", "patch_size"), [("xcit_small_12_p8_224", 8), ("xcit_medium_24_p16_224", 16)]
)
def test_shapes_tell_the_published_xcits(arch, patch_size):
    with torch.device("meta"):
        state = build_backbone(arch).network.state_dict()
    info = inferred_info(state)
    assert (info.arch, info.patch_size) == (arch, patch_size)


def test_a_training_state_of_dinov2_gives_backbone_and_head(tmp_path):
    network = network_of(DINOV2)
    state = {f"module.backbone.{name}": t for name, t in meta_dinov2(network).items()}
    state |= {"dino_head.mlp.0.weight": torch.ones(2, 64), "ibot_head.mlp.0.weight": torch.ones(2)}
    path = saved(tmp_path / "teacher_checkpoint.pth", {"teacher": state, "iteration": 5})
    assert weights_sha256(load_backbone(path)[0]) == weights_sha256(network)
    assert list(read_training_weights(path)["head"]) == ["mlp.0.weight"]


def test_convnext_files_say_what_to_pass_instead(tmp_path):
    path = saved(tmp_path / "convnext.pth", {"downsample_layers.0.0.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match="timm:convnext_tiny.dinov3_lvd1689m"):
        load_backbone(path)


def test_two_tensors_for_one_place_are_refused(tmp_path):
    state = meta_dinov2(network_of(DINOV2))
    state["blocks.0.1.norm1.weight"] = state["blocks.1.norm1.weight"]
    with pytest.raises(CheckpointError, match="two tensors .* 'blocks.1.norm1.weight'"):
        load_backbone(saved(tmp_path / "twice.pth", state))


def test_a_timm_dino_network_becomes_the_arch_with_exact_positions():
    import timm

    network = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0)
    backbone, info = backbone_of_timm(network, "vit_small_patch16_224.dino")
    assert (backbone.arch, info.patch_size, info.image_size) == ("vit_small", 16, 224)
    assert info.mean == (0.485, 0.456, 0.406)


def test_another_timm_network_keeps_its_name_and_normalisation():
    import timm

    name = "vit_tiny_patch16_224.augreg_in21k"
    backbone, info = backbone_of_timm(timm.create_model(name, num_classes=0), name)
    assert (backbone.arch, info.mean) == ("vit_tiny_patch16_224", (0.5, 0.5, 0.5))


def test_a_timm_dinov2_network_has_the_settings_of_its_file():
    import timm

    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    network = timm.create_model(name, pretrained=False, num_classes=0)
    backbone, info = backbone_of_timm(network, name)
    assert (backbone.arch, backbone.position_embedding) == (name.split(".")[0], "antialiased")
    assert (info.image_size, info.input_size, info.patch_size) == (518, 224, 14)


def test_a_position_embedding_of_a_later_version_is_refused():
    metadata = CheckpointInfo(arch="vit_micro", patch_size=8).as_metadata()
    with pytest.raises(CheckpointError, match="position_embedding must be one of .* got 'new'"):
        CheckpointInfo.from_metadata(metadata | {"position_embedding": "new"})
