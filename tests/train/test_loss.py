import pytest
import torch
from hypothesis import given, settings, strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from dino_train.loss import Center, dino_loss


def paper_loss(student_logits: Tensor, teacher_probs: Tensor, student_temp: float) -> Tensor:
    """Algorithm 1 of the paper, one pair of crops at a time."""
    terms = []
    for t, probs in enumerate(teacher_probs):
        for s, logits in enumerate(student_logits):
            if s != t:
                log_probs = (logits / student_temp).log_softmax(dim=-1)
                terms.append(-(probs * log_probs).sum(dim=-1).mean())
    return torch.stack(terms).mean()


@settings(max_examples=30, deadline=None)
@given(
    student_crops=st.integers(2, 7),
    teacher_crops=st.integers(1, 2),
    batch=st.integers(1, 4),
    out_dim=st.integers(2, 33),
    temp=st.floats(0.05, 1.0),
)
def test_loss_equals_the_paper_pair_by_pair(student_crops, teacher_crops, batch, out_dim, temp):
    logits = torch.randn(student_crops, batch, out_dim, dtype=torch.float32)
    probs = torch.randn(teacher_crops, batch, out_dim).mul(3).softmax(dim=-1)
    ours, paper = dino_loss(logits, probs, student_temp=temp), paper_loss(logits, probs, temp)
    torch.testing.assert_close(ours, paper, rtol=1e-5, atol=1e-5)


def test_uniform_targets_and_logits_cost_ln_k():
    loss = dino_loss(torch.zeros(4, 3, 64), torch.full((2, 3, 64), 1 / 64))
    assert loss.item() == pytest.approx(4.1588830833596715, abs=1e-5)  # ln 64


def test_a_single_crop_has_no_pair():
    with pytest.raises(ValueError, match="pair of different crops, got 1 student and 1 teacher"):
        dino_loss(torch.zeros(1, 2, 8), torch.full((1, 2, 8), 1 / 8))


def test_loss_in_half_precision_is_summed_in_float32():
    logits = torch.randn(3, 4, 4096).bfloat16()
    probs = torch.randn(2, 4, 4096).softmax(dim=-1)
    loss = dino_loss(logits, probs)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, paper_loss(logits.float(), probs, 0.1), rtol=1e-5, atol=1e-5)


def test_targets_are_centred_then_sharpened():
    center = Center(3)
    center.center.copy_(torch.tensor([1.0, 0.0, 0.0]))
    targets = center.targets(torch.tensor([[[1.0, 0.0, 0.0]]]), teacher_temp=0.04)
    torch.testing.assert_close(targets, torch.full((1, 1, 3), 1 / 3))


def test_centre_moves_a_tenth_of_the_way():
    center = Center(2, momentum=0.9)
    center.update(torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(center.center, torch.tensor([0.1, -0.1]))


def test_asking_for_the_loss_changes_no_centre():
    center = Center(8)
    targets = center.targets(torch.randn(2, 3, 8), teacher_temp=0.04)
    dino_loss(torch.randn(4, 3, 8), targets)
    assert not center.center.any()


def test_shapes_in_signatures_are_checked_while_tests_run():
    with pytest.raises(TypeCheckError, match="student_logits"):
        dino_loss(torch.randn(4, 8), torch.rand(2, 3, 8))
