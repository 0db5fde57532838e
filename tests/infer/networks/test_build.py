""""""

import pytest
import torch

from dino_infer.networks.build import ViTShape, build_backbone
from dino_infer.networks.rotary import RotaryViTBackbone
from tests.infer.networks.small import small_vit


@pytest.mark.parametrize(
    ("arch", "embed_dim", "size"),
    [
        ("resnet50", 2048, 64),
        ("xcit_nano_12_p16_224", 128, 64),
        ("convnext_atto", 320, 64),
        ("vit_micro", 128, 48),
    ],
)
def test_any_timm_network_gives_one_vector_an_image(arch: str, embed_dim: int, size: int):
    backbone = build_backbone(arch).eval()
    assert backbone.embed_dim == embed_dim
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, size, size))
        assert features.shape == (2, embed_dim)
        assert not torch.equal(features[0], features[1])


def test_weights_carry_the_original_names():
    names = set(small_vit().network.state_dict())
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "norm.bias"} <= names
    assert {f"blocks.1.{part}.weight" for part in
            ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")} <= names  # fmt: skip
    assert not any(name.startswith(("head", "fc_norm")) for name in names)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 8), (12, 20), (24, 24), (4, 4)])
def test_tokens_of_any_size_form_the_grid(height: int, width: int):
    backbone, images = small_vit(), torch.randn(2, 3, height, width)
    tokens = backbone.tokens(images)
    assert tokens.grid == (height // 4, width // 4)
    assert tokens.patches.shape == (2, tokens.grid[0] * tokens.grid[1], 24)
    assert tokens.registers.shape == (2, 0, 24)
    torch.testing.assert_close(tokens.cls, backbone(images))


def test_pixels_beyond_the_last_whole_patch_are_ignored():
    backbone, images = small_vit(), torch.randn(1, 3, 19, 19)
    torch.testing.assert_close(backbone(images), backbone(images[..., :16, :16]))


@pytest.mark.parametrize("layer", [-1, 0])
def test_cls_attention_equals_the_softmax_over_all_keys(layer: int):
    backbone, images = small_vit(), torch.randn(2, 3, 12, 20)
    seen = {}
    attention_of = backbone.network.blocks[layer].attn
    attention_of.qkv.register_forward_hook(lambda m, i, o: seen.update(qkv=o))
    backbone.tokens(images)
    qkv = seen["qkv"].reshape(2, -1, 3, 3, 8).permute(2, 0, 3, 1, 4)
    full = (qkv[0] @ qkv[1].transpose(-2, -1) * 8**-0.5).softmax(dim=-1)
    ours = backbone.cls_attention(images, layer=layer)
    torch.testing.assert_close(ours, full[:, :, 0, 1:])
    assert (ours.sum(dim=-1) < 1).all()  # the [CLS] key has its share


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"layer must lie in \[-2, 1\] for 'vit', got 2"):
        small_vit().cls_attention(torch.randn(1, 3, 16, 16), layer=2)


def test_registers_are_neither_patches_nor_attended():
    backbone = build_backbone("vit_small_patch14_reg4_dinov2", image_size=56).eval()
    images = torch.randn(1, 3, 42, 56)
    with torch.no_grad():
        tokens = backbone.tokens(images)
        attention = backbone.cls_attention(images)
    assert backbone.num_prefix_tokens == 5
    assert tokens.registers.shape == (1, 4, 384) and tokens.patches.shape == (1, 12, 384)
    assert attention.shape == (1, 6, 12)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_a_shape_builds_the_parts_that_later_dinos_add(gated: bool, rotary: bool):
    shape = ViTShape(
        embed_dim=32, depth=2, num_heads=2, hidden_dim=40, gated=gated, registers=3,
        layer_scale=True, qkv_bias=False, rotary=rotary,
    )  # fmt: skip
    backbone = build_backbone("mine", shape=shape, patch_size=4, image_size=16).eval()
    images = torch.randn(2, 3, 12, 20)
    with torch.no_grad():
        tokens, attention = backbone.tokens(images), backbone.cls_attention(images)
    assert backbone.arch == "mine"
    assert tokens.registers.shape == (2, 3, 32) and tokens.patches.shape == (2, 15, 32)
    assert attention.shape == (2, 2, 15) and (attention.sum(dim=-1) < 1).all()
    parameters = dict(backbone.network.named_parameters())
    assert parameters["blocks.1.mlp.fc2.weight"].shape == (32, 40)
    scale = parameters["blocks.1.gamma_2" if rotary else "blocks.1.ls2.gamma"]
    torch.testing.assert_close(scale, torch.full((32,), 1e-5))
    assert ("pos_embed" in parameters) != rotary
    assert not any(name.startswith("blocks.1.attn.q") and "bias" in name for name in parameters)


def test_dinov3_by_its_timm_name_is_a_vit_and_other_networks_of_that_class_are_not():
    with torch.device("meta"):
        dinov3 = build_backbone("vit_small_patch16_dinov3")
        eva02 = build_backbone("eva02_tiny_patch14_224")
    assert isinstance(dinov3, RotaryViTBackbone) and dinov3.has_attention
    assert (dinov3.patch_size, dinov3.num_prefix_tokens) == (16, 5)
    assert not eva02.has_attention


def test_small_stem_keeps_the_resolution_of_small_images():
    usual = build_backbone("resnet18").eval()
    small = build_backbone("resnet18", small_stem=True).eval()
    images = torch.randn(1, 3, 32, 32)
    assert usual.network.forward_features(images).shape[-1] == 1
    assert small.network.forward_features(images).shape[-1] == 4
    with pytest.raises(ValueError, match="small_stem is for ResNets"):
        build_backbone("vit_micro", small_stem=True)
    with pytest.raises(ValueError, match="small_stem is for ResNets"):
        build_backbone("convnext_atto", small_stem=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 5}, "num_heads must divide embed_dim=24, got 5"),
        ({"patch_size": 17}, r"patch_size must lie in \[1, image_size=16\], got 17"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small_vit(**options)


def test_an_unknown_arch_is_told_the_nearest_names():
    with pytest.raises(ValueError, match=r"no arch named 'vit_smal'.*nearest: vit_small"):
        build_backbone("vit_smal")
