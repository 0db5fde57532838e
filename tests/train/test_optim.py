import numpy as np
import pytest
import torch
from torch import nn

from dino_infer.networks.build import build_backbone
from dino_train import optim
from dino_train.head import DINOHead
from dino_train.student_teacher import MultiCropNetwork


def test_groups_split_vit_small_as_the_original_does():
    with torch.device("meta"):
        net = MultiCropNetwork(
            build_backbone("vit_small"), DINOHead(384, 64, norm_last_layer=False)
        )
    decayed, plain = optim.parameter_groups(net)
    # 52 backbone weights incl. cls_token and pos_embed, 3 MLP weights, weight_g and weight_v less
    # the patch embedding's bias: the counts that the original's function gives.
    assert len(decayed["params"]) == 56
    assert len(plain["params"]) == 102
    assert plain["weight_decay"] == 0
    assert any(p is net.backbone.network.pos_embed for p in decayed["params"])
    assert any(p is net.head.last_layer.weight_g for p in decayed["params"])


def test_rates_reach_both_groups_but_decay_only_the_first():
    net = nn.Linear(2, 2)
    optimizer = optim.build_optimizer("adamw", optim.parameter_groups(net))
    optim.set_rates(optimizer, lr=0.5, weight_decay=0.1)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.5]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]


def test_learning_rate_scales_linearly_from_a_batch_of_256():
    assert optim.peak_lr(5e-4, batch_size=1024) == pytest.approx(2e-3)


def test_each_gradient_is_clipped_by_its_own_norm():
    small, large, absent = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    small.grad, large.grad = torch.tensor([0.3, 0.4]), torch.tensor([30.0, 40.0])
    norms = optim.clip_each_gradient([small, large, absent], 3.0)
    torch.testing.assert_close(norms, torch.tensor([0.5, 50.0]))
    torch.testing.assert_close(small.grad, torch.tensor([0.3, 0.4]))
    torch.testing.assert_close(large.grad, torch.tensor([1.8, 2.4]), rtol=1e-6, atol=0)


def test_clip_zero_clips_nothing():
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.tensor([1e6])
    optim.clip_each_gradient([weight], 0.0)
    assert weight.grad.item() == 1e6


def test_lars_takes_the_papers_step():
    weight = nn.Parameter(torch.tensor([[3.0, 4.0]]))
    bias = nn.Parameter(torch.tensor([1.0]))
    optimizer = optim.LARS([{"params": [weight, bias]}])
    optim.set_rates(optimizer, lr=2.0, weight_decay=0.1)
    weight.grad, bias.grad = torch.tensor([[0.6, 0.8]]), torch.tensor([0.5])
    optimizer.step()
    direction = np.array([0.6, 0.8]) + 0.1 * np.array([3.0, 4.0])
    trust = 0.001 * 5.0 / np.linalg.norm(direction)
    expected = np.array([3.0, 4.0]) - 2.0 * trust * direction
    np.testing.assert_allclose(weight.detach().numpy()[0], expected, rtol=1e-6)
    assert bias.item() == pytest.approx(0.0)  # plain momentum, no decay, no trust ratio
    optimizer.step()
    assert bias.item() == pytest.approx(-2.0 * (0.9 * 0.5 + 0.5))
