"""The coding-rate loss against its equation in float64, alone and in two processes."""

import copy
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor
from torch.nn import functional as F

from dino_train import optim
from dino_train.coding_rate import CodingRateLoss, coding_rate
from dino_train.head import ProjectionHead
from dino_train.learner import Learner, Rates
from dino_train.student_teacher import MultiCropNetwork, teacher_of
from tests.train.test_distributed import answers
from tests.train.test_learner import CPU, NoReading, assert_same, changed, crops, network, state

RATES = Rates(lr=1e-3, weight_decay=0.04, momentum=0.9)
LOSS_TOLERANCE = 5e-6  # float32 sums of numbers of about 1
ROUNDINGS = 10  # of float32, times the condition of the matrix: how far gradients may be


def equation(
    student: Tensor, targets: Tensor, *, weight: float = 1.0, epsilon: float = 0.05
) -> Tensor:
    """The loss as the paper writes it, one pair and one crop at a time."""
    cosines, rates = [], []
    for t, wanted in enumerate(targets):
        for s, seen in enumerate(student):
            if s != t:
                cosines.append(torch.stack([a @ b for a, b in zip(wanted, seen, strict=True)]))
    for z in student[: len(targets)]:
        m, p = z.shape
        inside = torch.eye(p, dtype=z.dtype) + p / (m * epsilon) * (z.T @ z)
        rates.append(torch.linalg.slogdet(inside).logabsdet / 2)
    gamma = (p + m) / (p * m)
    return -weight * torch.stack(cosines).mean() - gamma * torch.stack(rates).mean()


def unit(*shape: int, spread: float = 1.0) -> Tensor:
    """Unit vectors in float64 that float32 holds exactly."""
    drawn = 1 + spread * torch.randn(*shape, dtype=torch.float64)
    return F.normalize(drawn, dim=-1).float().double()


@settings(max_examples=40, deadline=None)
@given(
    crops=st.integers(2, 6),
    batch=st.integers(1, 40),
    width=st.sampled_from([2, 8, 64]),
    weight=st.sampled_from([0.5, 1.0, 3.0]),
    epsilon=st.sampled_from([0.05, 0.5]),
    spread=st.sampled_from([1e-3, 1.0, 100.0]),
)
def test_loss_and_gradient_equal_the_equation_in_float64(
    crops, batch, width, weight, epsilon, spread
):
    student = unit(crops, batch, width, spread=spread).requires_grad_()
    targets = unit(2, batch, width, spread=spread)
    exact = equation(student, targets, weight=weight, epsilon=epsilon)
    (wanted,) = torch.autograd.grad(exact, student)
    single = student.detach().float().requires_grad_()
    loss = CodingRateLoss(alignment_weight=weight, epsilon=epsilon)(single, targets.float()).loss
    (found,) = torch.autograd.grad(loss, single)
    assert loss.item() == pytest.approx(exact.item(), rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE)
    bound = ROUNDINGS * 2**-24 * (1 + width / epsilon) * wanted.abs().max().item()
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=bound)


def test_without_a_teacher_both_sides_of_a_pair_get_their_gradient():
    student = unit(2, 6, 8).requires_grad_()
    (wanted,) = torch.autograd.grad(equation(student, student), student)
    single = student.detach().float().requires_grad_()
    (found,) = torch.autograd.grad(CodingRateLoss()(single, single).loss, single)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


def test_the_rate_is_that_of_the_known_extremes():
    images, width, epsilon = 64, 16, 0.05
    same = F.normalize(torch.ones(1, images, width), dim=-1)
    even = torch.eye(width).repeat(images // width, 1)[None]
    low, high = (coding_rate(z.mT @ z / images, epsilon=epsilon).item() for z in (same, even))
    assert low == pytest.approx(0.5 * math.log(1 + width / epsilon), rel=1e-5)
    assert high == pytest.approx(width / 2 * math.log(1 + 1 / epsilon), rel=1e-5)
    loss = CodingRateLoss(epsilon=epsilon)
    for z, share in ((same, 0.0), (even, 1.0)):
        assert loss(z.repeat(2, 1, 1), z.repeat(2, 1, 1)).rate_share.item() == pytest.approx(
            share, abs=1e-4
        )


def test_outputs_in_half_precision_are_summed_in_float32():
    student = unit(2, 32, 64).bfloat16()
    terms = CodingRateLoss()(student, student)
    assert terms.loss.dtype == torch.float32
    exact = equation(student.double(), student.double())
    assert terms.loss.item() == pytest.approx(exact.item(), abs=1e-5)


def test_a_crop_alone_has_no_pair():
    with pytest.raises(ValueError, match="pair of different crops, got 1 student and 1 teacher"):
        CodingRateLoss()(torch.zeros(1, 2, 8), torch.zeros(1, 2, 8))


def test_two_processes_learn_what_one_learns_from_all_images(tmp_path: Path):
    weights = torch.randn(5, 8, dtype=torch.float32)
    images = torch.randn(3, 8, 5)

    def gradient(part: Tensor) -> Tensor:
        own = weights.clone().requires_grad_()
        outputs = F.normalize(part @ own, dim=-1)
        terms = CodingRateLoss()(outputs, outputs[:2])
        return torch.autograd.grad(terms.loss, own)[0]

    def question(rank: int) -> list:
        return gradient(images[:, 4 * rank : 4 * rank + 4]).tolist()

    halves = [torch.tensor(one) for one in answers(tmp_path, question)]
    mean = (halves[0] + halves[1]) / 2  # what data parallel does
    torch.testing.assert_close(mean, gradient(images), rtol=0, atol=1e-6)


def rate_learner(teacher_sees: bool, precision="fp32", **head) -> Learner:
    def made() -> MultiCropNetwork:
        head_of = ProjectionHead(16, hidden_dim=24, bottleneck_dim=8, **head)
        return MultiCropNetwork(network().backbone, head_of)

    student = made()
    return Learner(
        student,
        teacher_of(student, made()),
        None,
        optim.build_optimizer("adamw", optim.parameter_groups(student)),
        process=CPU,
        coding_rate=CodingRateLoss(alignment_weight=3.0),
        teacher_sees=teacher_sees,
        precision=precision,
    )


both = pytest.mark.parametrize("teacher_sees", [True, False])


@both
def test_a_step_moves_the_student_and_the_average_follows(teacher_sees: bool):
    ours = rate_learner(teacher_sees)
    student, teacher = state(ours.student), state(ours.teacher)
    outcome = ours.step([crops()], rates=RATES)
    assert outcome.applied
    moved = changed(ours.student, student)
    assert moved and moved <= changed(ours.teacher, teacher) | {"backbone.network.attn.qkv.bias"}
    assert all(p.grad is None for p in ours.teacher.parameters())
    assert set(outcome.health) == {
        "rate_loss", "alignment", "coding_rate_nats", "coding_rate_share", "feature_std",
    }  # fmt: skip


def test_the_teacher_sees_no_image_where_the_student_is_its_own_target():
    ours = rate_learner(teacher_sees=False)
    seen = []
    ours.teacher.register_forward_hook(lambda *_: seen.append(1))
    ours.step([crops()], rates=RATES)
    assert seen == []


@both
def test_statistics_of_batch_norm_reach_the_average(teacher_sees: bool):
    ours = rate_learner(teacher_sees, use_bn=True)
    ours.step([crops()], rates=RATES)
    name = "head.mlp.1.running_mean"
    student, teacher = ours.student.state_dict()[name], ours.teacher.state_dict()[name]
    assert teacher.any() and torch.equal(student, teacher) is not teacher_sees


@both
def test_a_non_finite_step_changes_nothing(teacher_sees: bool):
    ours = rate_learner(teacher_sees, use_bn=True)
    bad = crops()
    bad[0][0, 0, 0, 0, 0] = float("nan")
    for _ in range(2):
        before = copy.deepcopy(ours.state())
        assert not ours.step([bad], rates=RATES).applied
        assert_same(before, ours.state())
        assert ours.step([crops()], rates=RATES).applied


@both
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_lets_the_host_see_no_number(teacher_sees: bool, precision: str):
    ours = rate_learner(teacher_sees, precision, use_bn=True)
    with NoReading():
        ours.step([crops(), crops()], rates=RATES)


@both
def test_state_restores_a_learner_bit_for_bit(teacher_sees: bool):
    first, second = rate_learner(teacher_sees), rate_learner(teacher_sees)
    batches = [crops() for _ in range(4)]
    for batch in batches[:2]:
        first.step([batch], rates=RATES)
    second.load_state(copy.deepcopy(first.state()))
    for batch in batches[2:]:
        first.step([batch], rates=RATES)
        second.step([batch], rates=RATES)
    assert not changed(first.student, second.student.state_dict())
    assert not changed(first.teacher, second.teacher.state_dict())


def test_parts_of_a_batch_have_coding_rates_of_their_own():
    whole, halves = rate_learner(True), rate_learner(True)
    halves.load_state(copy.deepcopy(whole.state()))
    batch = crops(batch=6)
    parts = [[group[:, :3] for group in batch], [group[:, 3:] for group in batch]]
    one = whole.step([batch], rates=RATES).health
    two = halves.step(parts, rates=RATES).health
    assert two["alignment"].item() == pytest.approx(one["alignment"].item(), abs=1e-5)
    assert two["coding_rate_nats"] < one["coding_rate_nats"]  # of 3 images, not of 6
