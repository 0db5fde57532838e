from typing import Any

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


class WrongAdamW(torch.optim.AdamW):
    """Its fused steps are too long by a tenth of a percent."""

    def step(self, closure: Any = None) -> None:
        group = self.param_groups[0]
        group["lr"] *= 1.001 if group["fused"] else 1.0
        super().step(closure)


class HastySGD(torch.optim.SGD):
    """Its fused steps cannot be called off."""

    def step(self, closure: Any = None) -> None:
        self.found_inf = None
        super().step(closure)


@pytest.fixture
def checked(monkeypatch):
    """Check fused steps on the CPU as on a GPU, anew."""
    monkeypatch.setattr(optim, "_CHECKED_ON", ("cpu",))
    optim._fused_works.cache_clear()
    yield
    optim._fused_works.cache_clear()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_right_fused_steps_stay_on(checked, name, caplog):
    optimizer = optim.build_optimizer(name, optim.parameter_groups(nn.Linear(2, 2)))
    assert all(group["fused"] for group in optimizer.param_groups) and not caplog.messages


@pytest.mark.parametrize(("name", "wrong"), [("adamw", WrongAdamW), ("sgd", HastySGD)])
def test_wrong_fused_steps_are_switched_off_with_a_line(checked, monkeypatch, caplog, name, wrong):
    monkeypatch.setattr(torch.optim, wrong.__base__.__name__, wrong)
    optimizer = optim.build_optimizer(name, optim.parameter_groups(nn.Linear(2, 2)))
    assert not any(group["fused"] for group in optimizer.param_groups)
    (said,) = caplog.messages
    assert f"steps of {name} are taken without its fused kernel" in said


def test_resuming_keeps_steps_as_this_device_computes_them():
    nets = [nn.Linear(3, 2) for _ in range(2)]
    updates = [
        optim.GuardedUpdate(
            optim._build("adamw", optim.parameter_groups(net), fused=fused), net,
            buffers=[], scaled=False, clip_grad=0, device=torch.device("cpu"),
        )
        for net, fused in zip(nets, (True, False), strict=True)
    ]  # fmt: skip
    nets[0](torch.ones(1, 3)).sum().backward()
    applied, _ = updates[0].apply(lr=1, weight_decay=0, frozen=[], numbers=torch.ones(1))
    assert applied
    updates[1].load_state(updates[0].state())
    kept = updates[1].state()["optimizer"]
    assert [group["fused"] for group in kept["param_groups"]] == [False, False]
    assert kept["state"][0]["step"] == 1 and kept["state"][0]["exp_avg"].any()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_and_plain_steps_on_a_gpu_are_those_of_the_cpu(name):
    cuda = torch.device("cuda")
    expected = optim._three_steps(name, torch.device("cpu"), fused=False)
    for fused in (True, False):
        made = optim._three_steps(name, cuda, fused=fused).cpu()
        torch.testing.assert_close(made, expected, rtol=0, atol=optim._CHECK_ERROR)
