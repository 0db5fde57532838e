"""The loss that never holds all logits, against the one that does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dino_train import sliced_loss
from dino_train.head import WeightNormLinear
from dino_train.loss import Center, DINOLoss, LossTerms, dino_loss

TOLERANCE = 1e-5  # float32 sums in another order
HALF_TOLERANCE = 0.03  # bfloat16 keeps three digits of a logit, of the largest gradient here
STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.04


class Case:
    """Two last layers, their inputs and a centre."""

    def __init__(self, local: int, batch: int, out_dim: int, *, train_norm: bool = True) -> None:
        self.layer = WeightNormLinear(16, out_dim, train_norm=train_norm)
        self.teacher_layer = WeightNormLinear(16, out_dim, train_norm=train_norm)
        with torch.no_grad():
            self.layer.weight_g.uniform_(0.5, 1.5)
            self.teacher_layer.weight_g.uniform_(0.5, 1.5)
        self.student = F.normalize(torch.randn(2 + local, batch, 16), dim=-1).requires_grad_()
        self.teacher = F.normalize(torch.randn(2, batch, 16), dim=-1)
        self.center = Center(out_dim)
        self.center.center.normal_(std=0.1)

    def sliced(self, **options) -> LossTerms:
        loss = DINOLoss(self.layer, self.teacher_layer, student_temp=STUDENT_TEMP, **options)
        return loss(self.student, self.teacher, self.center, teacher_temp=TEACHER_TEMP)

    def plain(self) -> LossTerms:
        with torch.no_grad():
            logits = self.teacher_layer(self.teacher)
            targets = self.center.targets(logits, teacher_temp=TEACHER_TEMP)
            entropy = -(targets * targets.clamp_min(1e-30).log()).sum(dim=-1).mean()
        loss = dino_loss(self.layer(self.student), targets, student_temp=STUDENT_TEMP)
        return LossTerms(loss, entropy, logits.mean(dim=(0, 1)))

    def gradients(self, loss: Tensor) -> list[Tensor]:
        inputs = [self.student, self.layer.weight_v, self.layer.weight_g]
        return list(torch.autograd.grad(loss, [x for x in inputs if x.requires_grad]))


@pytest.mark.parametrize(
    ("local", "batch", "out_dim"),
    [(0, 1, 2), (0, 5, 33), (1, 3, 2048), (8, 4, 2049), (8, 9, 5000), (3, 1, 4096)],
)
@pytest.mark.parametrize("largest_logit", [0.0, 60.0])
def test_everything_equals_the_plain_loss_with_peaks_and_without(
    monkeypatch, local: int, batch: int, out_dim: int, largest_logit: float
):
    monkeypatch.setattr(sliced_loss, "_LARGEST_LOGIT", largest_logit)
    case = Case(local, batch, out_dim)
    sliced, plain = case.sliced(memory_mib=1), case.plain()
    for ours, theirs in zip(sliced, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)
    for ours, theirs in zip(case.gradients(sliced.loss), case.gradients(plain.loss), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE * theirs.abs().max().item())


def test_norms_that_stand_still_get_no_gradient_and_change_no_other():
    case = Case(2, 3, 300, train_norm=False)
    ours, theirs = case.gradients(case.sliced().loss), case.gradients(case.plain().loss)
    assert len(ours) == 2
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


def test_gradients_are_scaled_with_the_loss():
    case = Case(2, 3, 300)
    once, thrice = case.gradients(case.sliced().loss), case.gradients(3 * case.sliced().loss)
    for one, three in zip(once, thrice, strict=True):
        torch.testing.assert_close(3 * one, three)


def test_the_teacher_gets_no_gradient_and_entropy_gives_none():
    case = Case(2, 3, 300)
    case.teacher.requires_grad_()
    sliced = case.sliced()
    assert not sliced.teacher_entropy.requires_grad
    sliced.loss.backward()
    assert case.teacher.grad is None and case.teacher_layer.weight_v.grad is None


def test_logits_in_the_hundreds_do_not_overflow():
    case = Case(2, 3, 3000)
    with torch.no_grad():
        case.layer.weight_g.fill_(60.0)
        case.teacher_layer.weight_g.fill_(60.0)
    sliced, plain = case.sliced(), case.plain()
    torch.testing.assert_close(sliced.loss, plain.loss, rtol=TOLERANCE, atol=TOLERANCE)
    assert all(gradient.isfinite().all() for gradient in case.gradients(sliced.loss))


def test_a_bottleneck_that_is_not_finite_shows_in_the_loss():
    case = Case(2, 3, 300)
    with torch.no_grad():
        case.student[3, 1, 0] = float("nan")
    assert case.sliced().loss.isnan()


def test_uniform_and_one_hot_teachers_have_extreme_entropies():
    case = Case(0, 4, 3000)
    case.center.center.zero_()
    with torch.no_grad():
        case.teacher_layer.weight_g.fill_(0.0)
        assert case.sliced().teacher_entropy.item() == pytest.approx(math.log(3000), abs=1e-5)
        case.center.center[7] = -100.0
        assert case.sliced().teacher_entropy.item() == pytest.approx(0.0, abs=1e-5)


def test_the_same_loss_twice_is_the_same_bit_for_bit():
    case = Case(8, 6, 5000)
    first, second = case.sliced(memory_mib=1), case.sliced(memory_mib=1)
    assert torch.equal(first.loss, second.loss)
    both = zip(case.gradients(first.loss), case.gradients(second.loss), strict=True)
    assert all(torch.equal(one, other) for one, other in both)


def test_bfloat16_products_stay_near_float32():
    case = Case(8, 16, 5000)
    half, full = case.sliced(dtype=torch.bfloat16), case.sliced()
    assert half.loss.item() == pytest.approx(full.loss.item(), rel=2e-3)
    for ours, theirs in zip(case.gradients(half.loss), case.gradients(full.loss), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() < HALF_TOLERANCE * theirs.abs().max()


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.numel = max(self.numel, out.numel())
        return out


def test_no_tensor_holds_the_logits_of_all_crops():
    case = Case(8, 64, 6000)
    with LargestTensor() as largest:
        case.sliced(memory_mib=1).loss.backward()
    all_logits = case.student.shape[0] * 64 * 6000
    assert case.layer.weight_v.numel() <= largest.numel < all_logits / 20


def test_a_single_crop_has_no_pair():
    case = Case(0, 2, 8)
    case.student, case.teacher = case.student[:1].detach(), case.teacher[:1]
    with pytest.raises(ValueError, match="pair of different crops, got 1 student and 1 teacher"):
        case.sliced()
