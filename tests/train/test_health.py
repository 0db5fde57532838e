import math
import re

import pytest
import torch

from dino_infer.evaluate.measures.health import unique_prototypes
from dino_train.health import CollapseMonitor, CopiesMonitor, step_health


def health(features: torch.Tensor, *, loss: float = 2.0, entropy: float = 1.5) -> dict:
    center = torch.zeros(32)
    center[:2] = torch.tensor([3.0, 4.0])
    numbers = step_health(
        loss=torch.tensor(loss),
        teacher_entropy=torch.tensor(entropy),
        features=features,
        center=center,
    )
    return {name: value.item() for name, value in numbers.items()}


def test_the_loss_is_told_apart_into_entropy_and_what_is_left_to_learn():
    numbers = health(torch.randn(8, 16))
    assert numbers["teacher_entropy_nats"] == pytest.approx(1.5)
    assert numbers["kl_nats"] == pytest.approx(0.5)
    assert numbers["loss_over_ln_k"] == pytest.approx(2.0 / math.log(32))
    assert numbers["center_norm"] == pytest.approx(5.0)


def test_feature_std_is_zero_for_equal_and_near_one_for_scattered_features():
    assert health(torch.ones(512, 64))["feature_std"] == pytest.approx(0, abs=1e-3)
    assert health(torch.randn(512, 64))["feature_std"] == pytest.approx(1, abs=0.01)


def row(step: int, *, loss_share: float, entropy_share: float, feature_std: float = 0.5) -> dict:
    ln_k = math.log(1024)
    return {
        "step": step,
        "loss_nats": loss_share * ln_k,
        "loss_over_ln_k": loss_share,
        "teacher_entropy_nats": entropy_share * ln_k,
        "feature_std": feature_std,
    }


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        ({"loss_share": 0.9999, "entropy_share": 0.9999}, "uniform collapse.*warmup_teacher_temp"),
        ({"loss_share": 0.001, "entropy_share": 0.0005}, "one-hot collapse.*teacher_temp"),
        (
            {"loss_share": 0.8, "entropy_share": 0.5, "feature_std": 1e-4},
            r"same vector.*optim\.lr",
        ),
    ],
)
def test_a_lasting_collapse_is_named_once_with_its_remedy(sign: dict, words: str):
    monitor = CollapseMonitor(window=3, patience_steps=100)
    warnings = [monitor.warning(row(step, **sign)) for step in range(0, 200, 20)]
    given = [(i * 20, w) for i, w in enumerate(warnings) if w]
    assert len(given) == 1
    assert given[0][0] == 140 and re.search(words, given[0][1])


def rate_row(step: int, **numbers: float) -> dict:
    healthy = {"alignment": 0.6, "coding_rate_share": 0.7, "feature_std": 0.5}
    return {"step": step, "rate_loss": -3.0, **healthy, **numbers}


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        ({"coding_rate_share": 0.01}, "nearly the same direction.*lower `loss.alignment_weight`"),
        ({"alignment": 0.0}, "no agreement.*raise `loss.alignment_weight`"),
        ({"feature_std": 1e-4}, r"same vector.*optim\.lr"),
        ({}, None),
    ],
)
def test_the_coding_rate_has_signs_of_its_own(sign: dict, words: str | None):
    monitor = CollapseMonitor(window=3, patience_steps=100)
    rows = [rate_row(step, **sign) for step in range(0, 200, 20)]
    given = [warning for row in rows if (warning := monitor.warning(row))]
    assert len(given) == (words is not None)
    assert words is None or re.search(words, given[0])


def test_copies_among_the_prototypes_are_named_once():
    monitor = CopiesMonitor()
    shares = (1.0, 0.5, 0.05, 0.04)
    given = [monitor.warning({"rankme": 9.0, "unique_prototypes_share": s}) for s in shares]
    assert given[:2] == [None, None] and given[3] is None
    assert "partial prototype collapse" in given[2] and "5.0%" in given[2]
    assert "lower `head.out_dim`" in given[2]
    assert monitor.warning({"rankme": 9.0}) is None


def test_a_healthy_or_passing_sign_gives_no_warning():
    monitor = CollapseMonitor(window=3, patience_steps=0)
    for step in range(20):
        share = 0.9999 if step % 3 else 0.7
        assert monitor.warning(row(step, loss_share=share, entropy_share=share)) is None


def test_prototypes_that_point_the_same_way_count_once():
    rows = torch.cat([torch.eye(8), 3 * torch.eye(8)[:5], torch.eye(8)[:1] + 0.01])
    assert unique_prototypes(rows) == 8
