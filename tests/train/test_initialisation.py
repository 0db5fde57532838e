"""Weights start as the original's: which distribution, which bounds."""

import math

import pytest
import torch

from dino_infer.networks.build import build_backbone
from dino_train.head import DINOHead


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return build_backbone("vit_small").network


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        counts = {
            arch: sum(p.numel() for p in build_backbone(arch).parameters())
            for arch in ("vit_tiny", "vit_small", "vit_base")
        }
        head = DINOHead(384, 65536)
    assert counts == {"vit_tiny": 5_524_416, "vit_small": 21_665_664, "vit_base": 85_798_656}
    assert sum(p.numel() for p in head.parameters()) == 22_352_128


def test_every_linear_weight_is_normal_with_std_2_percent_and_zero_bias(vit):
    for name, module in vit.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.01), name
            assert abs(module.weight.mean().item()) < 1e-4, name
            assert not module.bias.any(), name


def test_tokens_and_positions_are_normal_with_std_2_percent(vit):
    assert vit.pos_embed.std().item() == pytest.approx(0.02, rel=0.02)
    assert vit.cls_token.std().item() == pytest.approx(0.02, rel=0.15)  # 384 numbers only


def test_patch_embedding_keeps_pytorchs_convolution_default(vit):
    weight, bound = vit.patch_embed.proj.weight, 1 / math.sqrt(3 * 16 * 16)
    assert weight.abs().max().item() <= bound
    assert weight.abs().max().item() > 0.99 * bound
    assert weight.std().item() == pytest.approx(0.0208, abs=2e-4)
    assert vit.patch_embed.proj.bias.abs().max().item() <= bound


def test_norms_start_at_one_and_zero_with_eps_1e_minus_6(vit):
    for module in vit.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-6
            assert (module.weight == 1).all() and not module.bias.any()


def test_stochastic_depth_rises_linearly_over_the_blocks():
    blocks = build_backbone("vit_micro", drop_path_rate=0.1).network.blocks
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])


def test_last_layer_is_uniform_with_unit_rows_in_effect():
    head = DINOHead(384, 4096)
    weight_v = head.last_layer.weight_v
    assert weight_v.abs().max().item() <= 1 / 16
    assert weight_v.std().item() == pytest.approx(1 / 16 / math.sqrt(3), rel=0.01)
    assert (head.last_layer.weight_g == 1).all()
    logits = head(torch.randn(8, 384))
    assert logits.abs().max().item() <= 1 + 1e-6  # cosines


def test_head_mlp_is_normal_with_std_2_percent_and_zero_bias():
    head = DINOHead(384, 64, use_bn=True)
    linears = [m for m in head.mlp if isinstance(m, torch.nn.Linear)]
    assert [tuple(m.weight.shape) for m in linears] == [(2048, 384), (2048, 2048), (256, 2048)]
    assert sum(isinstance(m, torch.nn.BatchNorm1d) for m in head.mlp) == 2
    for layer in linears:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.01)
        assert not layer.bias.any()


@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d", "regnety_002"])
def test_no_norm_of_a_convnet_starts_at_zero_since_torchvisions_do_not(arch: str):
    parameters = dict(build_backbone(arch).network.named_parameters())
    scales = {name: p for name, p in parameters.items() if p.ndim == 1 and "weight" in name}
    assert scales and all((scale == 1).all() for scale in scales.values())


def test_a_resnet_starts_with_the_convolutions_of_torchvision():
    torch.manual_seed(0)
    for module in build_backbone("resnet18").modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)


def test_stochastic_depth_is_left_out_where_the_network_does_not_know_it():
    assert build_backbone("densenet121", drop_path_rate=0.1).embed_dim == 1024
